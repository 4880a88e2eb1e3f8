"""Helpers for tests of the prepare phase: chat formats, rows, and running the phase."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobspec.records.reports import PrepareReport
from jobspec.spec.schema import ModelSpec
from jobspec.storage.layout import RootPaths
from tests.support.models import CHATML, SPECIAL, byte_tokenizer
from tests.support.paths import REPOSITORY
from worker.data import tokenizer
from worker.data.chat_template import ChatTemplate
from worker.data.dataset_cache import IGNORED
from worker.data.encode import ChatRow, EncodedRow, RefusedRow, RowEncoder, encode_row
from worker.thinking import ThinkTags

Rows = list[dict[str, Any]]
TAGS = ThinkTags.closed_by("</think>")


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


def real_chat(model: Path, root: Path, template: Path | None = None) -> RowEncoder:
    """The chat format of a model directory, as prepare reads it."""
    found = tokenizer.load_tokenizer_facts(ModelSpec(name=str(model)), RootPaths(root))
    sources = found.facts.chat_templates
    if template is not None:
        sources = {"default": template.read_text()}
    made = ChatTemplate(sources, found.facts.special_tokens)
    return RowEncoder(made, tokenizer.Codec(found.facts), TAGS, max_length=40_000)


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
        command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120
    )


def run_code(code: str, *arguments: str | Path) -> str:
    """What a Python program of its own prints; warnings are errors there too."""
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
