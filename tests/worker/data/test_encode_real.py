"""Rows of real data under real templates and tokenizers, against Transformers' own rendering."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from jobspec.errors import TemplateError
from tests.support.models import real_model_dir
from tests.support.paths import DATA, needs_data
from tests.support.prepared import (
    CALL,
    TOOLS,
    assistant,
    encoded,
    real_chat,
    refused,
    row,
    supervised,
    user,
)
from worker.data.chat_template import ChatTemplate
from worker.data.dataset_cache import IGNORED
from worker.data.encode import ChatRow, DropKind
from worker.rows.row import parse_row

TEMPLATES = DATA / "templates"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not DATA.is_dir():
        pytest.skip(f"the reference data is not at {DATA}")
    base = tmp_path_factory.mktemp("models")
    return {family: real_model_dir(base / family, family) for family in ("qwen3", "olmo_dolma2")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def reference_rows(*, for_olmo_think: bool) -> list[ChatRow]:
    """The reference rows; Olmo-Think's template has no tools, and calls their turns otherwise."""
    lines = (DATA / "sft_reasoning.jsonl").read_bytes().splitlines()
    rows = [parse_row(line, number, DATA) for number, line in enumerate(lines, 1)]
    if not for_olmo_think:
        return rows
    for one in rows:
        for message in one.messages:
            if message["role"] == "tool":
                message["role"] = "environment"
    return [ChatRow(one.number, one.messages, None) for one in rows]


FAMILIES = [
    pytest.param("qwen3", "qwen3.jinja", "<|im_end|>", id="Qwen3"),
    pytest.param(
        "olmo_dolma2",
        "olmo3_7b_think_default_dec2024.jinja",
        "<|endoftext|>",
        id="Olmo-3-Think",
    ),
    pytest.param(
        "olmo_dolma2", "openinstruct_olmo_thinker.jinja", "<|endoftext|>", id="Olmo-thinker"
    ),
    pytest.param("olmo_dolma2", "olmo3_7b_instruct.jinja", "<|endoftext|>", id="Olmo-3-Instruct"),
]


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(("family", "template", "end"), FAMILIES)
def test_every_real_row_trains_exactly_its_final_turn(
    family: str, template: str, end: str, models: dict[str, Path], cache: Path
) -> None:
    """Against Transformers' own rendering and ids, and a final turn cut out here by plain text."""
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(str(models[family]))
    reference.chat_template = (TEMPLATES / template).read_text()
    opens = template.startswith(("olmo3_7b_think", "openinstruct_olmo_thinker"))
    format_ = real_chat(models[family], cache, TEMPLATES / template)
    rows = reference_rows(for_olmo_think=opens)
    assert len(rows) == 399
    for one in rows:
        asked: dict[str, Any] = {"tools": one.tools, "return_dict": False}
        prompt = reference.apply_chat_template(
            one.messages[:-1], add_generation_prompt=True, tokenize=True, **asked
        )
        text = reference.apply_chat_template(one.messages, tokenize=False, **asked)
        made = encoded(one, format_)
        assert made.text == text
        assert made.input_ids[: len(prompt)] == prompt
        _, turn = text.rsplit("<|im_start|>assistant\n", 1)
        turn = turn[: turn.rindex(end) + len(end)]
        assert reference.decode([t for t in made.labels if t != IGNORED]) == turn
        assert turn.startswith("<think>\n")
        assert turn.count(end) == 1
        assert made.input_ids[-1] == reference.convert_tokens_to_ids(end)
        trained = [token != IGNORED for token in made.labels]
        assert trained == sorted(trained), "context first, then the turn"
        # Where the prompt opens the thinking, that is the only part of it that is trained.
        opened = reference.decode(prompt[made.start :])
        assert opened == ("<think>" if opens else "")


@needs_data
@pytest.mark.data
def test_qwens_dropping_of_earlier_thinking_is_counted(
    models: dict[str, Path], cache: Path
) -> None:
    format_ = real_chat(models["qwen3"], cache, TEMPLATES / "qwen3.jinja")
    rows = reference_rows(for_olmo_think=False)
    dropped = [encoded(one, format_).thinking_dropped for one in rows]
    users = [sum(m["role"] == "user" for m in one.messages) for one in rows]
    assert [n > 0 for n in dropped] == [n > 1 for n in users]
    kept = real_chat(models["olmo_dolma2"], cache, TEMPLATES / "olmo3_7b_instruct.jinja")
    assert not any(encoded(one, kept).thinking_dropped for one in rows)


@needs_data
@pytest.mark.data
def test_olmo_think_refuses_rows_whose_tools_its_template_drops(
    models: dict[str, Path], cache: Path
) -> None:
    format_ = real_chat(
        models["olmo_dolma2"], cache, TEMPLATES / "olmo3_7b_think_default_dec2024.jinja"
    )
    for one in reference_rows(for_olmo_think=False):
        tool_turn = any(m["role"] == "tool" for m in one.messages)
        if one.tools or tool_turn:
            made = refused(one, format_)
            assert made.kind is DropKind.LOST_IN_RENDERING
            assert "drops tool 1" in made.reason if one.tools else "(`tool`)" in made.reason
        else:
            encoded(one, format_)


@needs_data
@pytest.mark.data
def test_qwens_non_thinking_template_is_refused_and_says_why(
    models: dict[str, Path], cache: Path
) -> None:
    format_ = real_chat(models["qwen3"], cache, TEMPLATES / "qwen3_nonthinking.jinja")
    made = refused(row(user("2+2?"), assistant("<think>\nTwo.\n</think>\n\n4")), format_)
    assert made.kind is DropKind.PROMPT_NOT_A_PREFIX
    assert "prefix" in made.reason
    assert "the prompt ends with `<think>\\n\\n</think>\\n\\n`" in made.reason
    # Without thinking the turn is rendered as the prompt begins it: trained, the empty block too.
    plain = encoded(row(user("2+2?"), assistant("4")), format_)
    assert supervised(plain, format_) == "<think>\n\n</think>\n\n4<|im_end|>"


@needs_data
@pytest.mark.data
def test_flawed_rows_are_refused_where_the_template_cuts_them(
    models: dict[str, Path], cache: Path
) -> None:
    lines = (DATA / "sft_flawed.jsonl").read_bytes().splitlines()
    rows = [parse_row(line, number, DATA) for number, line in enumerate(lines, 1)]
    stray = ["stray" in json.loads(line)["flaw"] for line in lines]
    assert stray == [True, True, False, False]
    format_ = real_chat(models["qwen3"], cache, TEMPLATES / "qwen3.jinja")
    for one in rows[:2]:
        made = refused(one, format_)
        assert made.kind is DropKind.LOST_IN_RENDERING
        assert "which quotes `</think>`" in made.reason
        assert made.text
    # What these two lack, a tag of their source, was put right before: they are whole rows.
    for one in rows[2:]:
        encoded(one, format_)


CONVERSATIONS = {
    "plain": [user("2+2?"), assistant("4")],
    "system": [{"role": "system", "content": " Be brief. "}, user("2+2?"), assistant("4")],
    "think": [user("2+2?"), assistant("<think>\nTwo.\n</think>\n\n4")],
    "reasoning": [user("2+2?"), assistant("4", reasoning_content="Two.")],
    "turns": [user("1"), assistant("<think>a</think>b"), user("2"), assistant("<think>c</think>d")],
    "tools": [
        user("2+2?"),
        assistant("", tool_calls=[CALL]),
        {"role": "tool", "content": "4", "name": "add"},
        assistant("It is 4."),
    ],
}


def template_files() -> list[Path]:
    import importlib.util

    found = importlib.util.find_spec("trl")
    places = [TEMPLATES]
    if found is not None and found.submodule_search_locations:
        places.append(Path(found.submodule_search_locations[0]) / "chat_templates")
    return [file for place in places for file in sorted(place.glob("*.jinja"))]


@pytest.mark.parametrize(
    "file", template_files(), ids=lambda file: f"{file.parent.name}-{file.stem}"
)
def test_renders_what_transformers_renders(file: Path) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    from worker.data.chat_template import RenderError

    special = {"bos_token": "<s>", "eos_token": "</s>"}
    ours = ChatTemplate({"default": file.read_text()}, special)
    for messages in CONVERSATIONS.values():
        for tools in (None, TOOLS):
            for prompt in (True, False):
                try:
                    theirs = render_jinja_template(
                        [copy.deepcopy(messages)],
                        tools=tools,
                        chat_template=file.read_text(),
                        add_generation_prompt=prompt,
                        **special,
                    )[0][0]
                except Exception:
                    with pytest.raises(RenderError):
                        ours.render(copy.deepcopy(messages), tools, prompt=prompt)
                    continue
                assert ours.render(copy.deepcopy(messages), tools, prompt=prompt) == theirs


def test_a_template_that_is_no_jinja_names_its_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="line 2") as caught:
        ChatTemplate({"default": "a\n{% for %}"}, {}, file=tmp_path / "t.jinja")
    assert caught.value.file == str(tmp_path / "t.jinja")
    assert caught.value.hint
