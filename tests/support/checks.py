"""What the tests of the checks share: a specification to check, and the refusal of a bad one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobspec.checks import check
from jobspec.errors import JobspecError
from jobspec.spec.builder import Request, build, write

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat_line(*contents: str) -> str:
    """One line of a data file: a conversation that begins with the user."""
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]
    return json.dumps({"messages": messages})


def spec_file(*settings: str, model: str = "./tiny", data: str = "train.jsonl") -> Path:
    small = ("train.max_length=512", "eval.max_gen_toks=512", *settings)
    request = Request(models=[model], data=data, settings=small, name="s")
    Path("specs/s.json").unlink(missing_ok=True)
    return write(build(request), Path("specs"))[0][0]


def checked(*settings: str, **options: str) -> check.CheckedSpec:
    return check.check(spec_file(*settings, **options), Path("root"), rows=False)


def refusal(*settings: str, **options: str) -> JobspecError:
    with pytest.raises(JobspecError) as caught:
        checked(*settings, **options)
    return caught.value
