"""What the tests of prepare share: chat formats, a tokenizer of bytes, model directories, specs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from jobspec.records.reports import PrepareReport
from jobspec.spec import identity, parsing
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage.layout import JobPaths, RootPaths
from worker.data import tokenizer
from worker.data.chat_template import ChatTemplate
from worker.data.dataset_cache import IGNORED
from worker.data.encode import ChatRow, EncodedRow, RefusedRow, RowEncoder, encode_row
from worker.thinking import ThinkTags

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("JOBSPEC_TEST_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "sft_reasoning.jsonl").is_file(),
    reason=f"the reference data is not at {DATA}; $JOBSPEC_TEST_DATA names its directory",
)
Rows = list[dict[str, Any]]
TAGS = ThinkTags.closed_by("</think>")

# Every turn alike; an assistant's reasoning_content is written as a think block.
CHATML = r"""
{%- for m in messages -%}
{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif -%}
{{ (m.content or '') + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif -%}
"""
# The same, its generation prompt opening the thinking.
OPENING = CHATML.replace(r"<|im_start|>assistant\n'", r"<|im_start|>assistant\n<think>'")
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")

# No headers at all.
BARE = r"""
{%- for m in messages -%}
{{ m.content }}{% if m.role == 'assistant' %}{{ '<|im_end|>' }}{% endif %}
{%- endfor -%}
"""


def byte_tokenizer(special: Iterable[str] = SPECIAL) -> Tokenizer:
    """One token a byte, and the special ones: every text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return made


def answer(eos: str = "<|im_end|>", special: Iterable[str] = SPECIAL) -> tokenizer.TokenizerFacts:
    """What AutoTokenizer would say of `byte_tokenizer`."""
    made = byte_tokenizer(sorted({*special, eos}))
    return tokenizer.TokenizerFacts(
        made.to_str(), {"eos_token": eos}, {}, {eos: made.token_to_id(eos)}
    )


def chat(template: str = CHATML, *, eos: str = "<|im_end|>", **changes: Any) -> RowEncoder:
    """A chat format over the byte tokenizer, whose special tokens are those the template writes."""
    special = sorted({*SPECIAL, *re.findall(r"<[|｜][^<>|｜\s]{1,40}[|｜]>", template)})
    variables = {"eos_token": eos, "bos_token": "<|endoftext|>"}
    settings = {"tags": TAGS, "max_length": 10_000} | changes
    codec = tokenizer.Codec(answer(eos, special))
    return RowEncoder(ChatTemplate({"default": template}, variables), codec, **settings)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def row(*messages: dict[str, Any], tools: list[Any] | None = None) -> ChatRow:
    return ChatRow(1, list(messages), tools)


# What a row can hold besides text: a tool, its call, and a turn of it.
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <two> numbers & says “so”",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
        },
    }
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "ä"}}}
TOOL_TURNS = [user("a"), assistant("b"), {"role": "tool", "content": "seen"}, assistant("c")]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def model_dir(path: Path, template: str | None = CHATML, **config: Any) -> Path:
    """A model directory without weights: what prepare reads of one."""
    path.mkdir(parents=True)
    byte_tokenizer().save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    described = {"model_type": "llama", "max_position_embeddings": 4096, "vocab_size": 300}
    (path / "config.json").write_text(json.dumps(described | config))
    if template is not None:
        (path / "chat_template.jinja").write_text(template)
    return path


def real_model_dir(path: Path, family: str, template: Path | None = None) -> Path:
    """A model directory with the tokenizer of `qwen3` or `olmo_dolma2` from the reference data."""
    path.mkdir(parents=True)
    for file in (DATA / "tokenizers" / family).iterdir():
        shutil.copyfile(file, path / file.name)
    config: dict[str, Any] = {"model_type": "qwen3", "max_position_embeddings": 40960}
    if family == "olmo_dolma2":
        config = {"model_type": "olmo3", "max_position_embeddings": 65536, "vocab_size": 100278}
        settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"}
        (path / "tokenizer_config.json").write_text(json.dumps(settings))
        ends = {"eos_token_id": [100265, 100257]}
        (path / "generation_config.json").write_text(json.dumps(ends))
    (path / "config.json").write_text(json.dumps(config))
    if template is not None:
        shutil.copyfile(template, path / "chat_template.jinja")
    return path


def real_chat(model: Path, root: Path, template: Path | None = None) -> RowEncoder:
    """The chat format of a model directory, as prepare reads it."""
    found = tokenizer.load_tokenizer_facts(ModelSpec(name=str(model)), RootPaths(root))
    sources = found.facts.chat_templates
    if template is not None:
        sources = {"default": template.read_text()}
    made = ChatTemplate(sources, found.facts.special_tokens)
    return RowEncoder(made, tokenizer.Codec(found.facts), TAGS, max_length=40_000)


def spec(model: Path, data: Path, /, **changes: Any) -> JobSpec:
    """A spec of these; `changes` are fields by dotted name, `data__seed=1`."""
    fields: dict[str, Any] = {
        "name": "test",
        "model": {"name": str(model)},
        "data": {"path": str(data)},
        "train": {"max_length": 1024},
        "eval": {"benchmarks": ["aime24"]},
    }
    for name, value in changes.items():
        group, _, field = name.partition("__")
        fields[group] = fields[group] | {field: value} if field else value
    return parsing.decode(json.dumps(fields).encode())


def sums(count: int, *, answers: int = 1) -> Rows:
    """`answers` rows a question, with thinking."""
    return [
        {
            "messages": [
                user(f"What is {i} + {i}?"),
                assistant(f"<think>Twice {i}.</think>{2 * i}{'!' * k}"),
            ]
        }
        for i in range(count)
        for k in range(answers)
    ]


def run_prepare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    module = "worker.data.check_command" if "--root" in arguments else "worker.data.prepare"
    command = [sys.executable, "-W", "error", "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


def run_code(code: str, *arguments: str | Path) -> str:
    """What a Python program of its own prints; warnings are errors there too."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(condition: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return found


def write_spec(path: Path, made: JobSpec) -> Path:
    path.write_bytes(identity.canonical(made))
    return path


def attempt_of(root: RootPaths, made: JobSpec) -> Path:
    """A job's first attempt, as the worker makes it."""
    bytes_ = identity.canonical(made)
    job = JobPaths(root.jobs / identity.job_id(made.name, bytes_))
    job.attempt(1).dir.mkdir(parents=True)
    job.spec.write_bytes(bytes_)
    return job.attempt(1).dir


def read_split(root: RootPaths, report: PrepareReport, name: str) -> list[dict[str, Any]]:
    import datasets

    return datasets.load_from_disk(str(root.root / report.dir / name)).to_list()


def supervised(made: EncodedRow, with_: RowEncoder) -> str:
    return with_.codec.spell([token for token in made.labels if token != IGNORED])


def encoded(one: ChatRow, with_: RowEncoder) -> EncodedRow:
    made = encode_row(one, with_)
    assert isinstance(made, EncodedRow), made
    return made


def refused(one: ChatRow, with_: RowEncoder) -> RefusedRow:
    made = encode_row(one, with_)
    assert isinstance(made, RefusedRow), made
    return made
