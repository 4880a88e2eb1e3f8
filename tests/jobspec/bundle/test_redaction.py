"""What identifies people and machines is replaced, and nothing else."""

from __future__ import annotations

import pytest

from jobspec.bundle.redaction import Redactor

COMMIT = "12577e553c2923d28e25adc23379f0c0c6351ab2"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(
        directories={"/scratch/proj/root": "<root>", "/home/mmuster": "<home>"},
        users=["mmuster", "root", "li"],
        hosts=["gpu012.cluster.example", "Login1", "localhost"],
        environment={"SOME_API_KEY": "correct-horse-battery", "PATH": "/usr/bin:/bin"},
        known=[COMMIT],
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("saved /scratch/proj/root/jobs/a/x", "saved <root>/jobs/a/x"),
        ("in /scratch/proj/root-2/x", "in <path>/x"),
        ('File "/opt/venv/lib/torch/nn.py", line 3', 'File "<path>/nn.py", line 3'),
        ("gcc -I/opt/cuda/include -L/opt/cuda/lib x", "gcc -I<path>/include -L<path>/lib x"),
        ("PATH=/usr/bin:/usr/local/bin", "PATH=<path>/bin:<path>/bin"),
        ("see file:///etc/ssl/certs", "see <path>/certs"),
        ("user mmuster on GPU012", "user <user> on <host-1>"),
        ("li@gpu012.cluster.example-7", "<user>@<host-1>-7"),
        ("node login1: 10.1.2.3:29500", "node <host-2>: <address>:29500"),
        ("key correct-horse-battery", "key <secret>"),
        ("HF_TOKEN=abcdefgh", "HF_TOKEN=<secret>"),
        ("Authorization: Bearer abcdef", "Authorization: Bearer <secret>"),
        ("hf_" + "a" * 34, "<a Hugging Face token>"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\nabc\n", "<a private key>"),
    ],
)
def test_a_log_loses_what_identifies(redactor: Redactor, text: str, expected: str) -> None:
    assert redactor.text(text) == expected
    assert sum(redactor.counts.values()) >= 1


@pytest.mark.parametrize(
    "text",
    [
        "12,000 tokens/s/device, 3/4 of n/a",
        "https://huggingface.co/allenai/Olmo-3-7B",
        "attempts/1/final_model/model.safetensors",
        "the square root of 2 on localhost; Alice lives elsewhere",
        "<think>a</think> version 10.2.1, cuDNN 9.1.0.70",
        "sha256 " + "ab" * 32,
    ],
)
def test_what_identifies_nobody_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text
    assert redactor.sample(text) == text
    assert not redactor.counts


def test_a_sample_loses_only_what_is_certain(redactor: Redactor) -> None:
    text = "run /usr/bin/python /home/mmuster/x.py as li, mmuster or 10.1.2.3"
    assert redactor.sample(text) == "run /usr/bin/python <home>/x.py as li, <user> or 10.1.2.3"


def test_records_keep_hashes_and_commits_and_lose_keys(redactor: Redactor) -> None:
    value = {"commit": COMMIT, "mmuster": ["/data/with space/x", "ab" * 20], "n": 1.5, "no": None}
    expected = {"commit": COMMIT, "<user>": ["<path>/x", "<secret>"], "n": 1.5, "no": None}
    assert redactor.value(value) == expected
