"""Rows → ids and labels: on real templates and tokenizers, and on every way to be refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from preparekit import (
    BARE,
    CHATML,
    DATA,
    OPENING,
    TAGS,
    assistant,
    chat,
    needs_data,
    real_chat,
    real_model_dir,
    row,
    user,
)

from jobspec.errors import DataError, TemplateError
from worker.rows import IGNORED, Chat, Encoded, Kind, Refusal, Row, encode_row, parse_row
from worker.templates import ChatTemplate

TEMPLATES = DATA / "templates"


def supervised(made: Encoded, with_: Chat) -> str:
    return with_.codec.spell([token for token in made.labels if token != IGNORED])


def encoded(one: Row, with_: Chat) -> Encoded:
    made = encode_row(one, with_)
    assert isinstance(made, Encoded), made
    return made


def refused(one: Row, with_: Chat) -> Refusal:
    made = encode_row(one, with_)
    assert isinstance(made, Refusal), made
    return made


# --- the real families, on all rows


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    if not DATA.is_dir():
        pytest.skip(f"the reference data is not at {DATA}")
    base = tmp_path_factory.mktemp("models")
    return {family: real_model_dir(base / family, family) for family in ("qwen3", "olmo_dolma2")}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


def reference_rows(*, for_olmo_think: bool) -> list[Row]:
    """The reference rows; Olmo-Think's template has no tools, and calls their turns otherwise."""
    lines = (DATA / "sft_reasoning.jsonl").read_bytes().splitlines()
    rows = [parse_row(line, number, DATA) for number, line in enumerate(lines, 1)]
    if not for_olmo_think:
        return rows
    for one in rows:
        for message in one.messages:
            if message["role"] == "tool":
                message["role"] = "environment"
    return [Row(one.number, one.messages, None) for one in rows]


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
            assert made.kind is Kind.LOST_IN_RENDERING
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
    assert made.kind is Kind.PROMPT_NOT_A_PREFIX
    assert "prefix" in made.reason
    assert "the prompt already writes `<think>\\n\\n</think>\\n\\n`" in made.reason
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
        assert made.kind is Kind.LOST_IN_RENDERING
        assert "which quotes `</think>`" in made.reason
        assert made.text
    # What these two lack, a tag of their source, was put right before: they are whole rows.
    for one in rows[2:]:
        encoded(one, format_)


# --- the same rendering as Transformers'

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

    from worker.templates import Unrenderable

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
                    with pytest.raises(Unrenderable):
                        ours.render(copy.deepcopy(messages), tools, prompt=prompt)
                    continue
                assert ours.render(copy.deepcopy(messages), tools, prompt=prompt) == theirs


def test_a_template_that_is_no_jinja_names_its_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="line 2") as caught:
        ChatTemplate({"default": "a\n{% for %}"}, {}, file=tmp_path / "t.jinja")
    assert caught.value.file == str(tmp_path / "t.jinja")
    assert caught.value.hint


# --- what is trained, on a tokenizer made here


def test_context_is_not_trained_and_the_newline_after_the_end_is_not_there() -> None:
    format_ = chat()
    made = encoded(row(user("hi"), assistant("one"), user("more"), assistant("two")), format_)
    assert supervised(made, format_) == "two<|im_end|>"
    assert format_.codec.spell(made.input_ids) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\none<|im_end|>\n"
        "<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>"
    )


def test_thinking_that_the_prompt_opens_is_trained_from_its_tag_on() -> None:
    format_ = chat(OPENING)
    made = encoded(row(user("hi"), assistant("<think>\na</think>b")), format_)
    assert supervised(made, format_) == "<think>\na</think>b<|im_end|>"
    assert made.has_thinking
    prompt = format_.codec.encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>")
    assert made.input_ids[: len(prompt)] == prompt
    assert len(prompt) - made.start == len("<think>")


def test_a_user_who_ends_on_the_tag_moves_no_label() -> None:
    """The template adds nothing to the last turn, so the tag at the prompt's end is the user's."""
    format_ = chat(BARE)
    made = encoded(row(user("say <think>"), assistant("no")), format_)
    assert supervised(made, format_) == "no<|im_end|>"


@pytest.mark.parametrize("content", ["\nb", " b", "b\n", "é", "</s>", "a\u0301", "𝟙 ∑\t"])
def test_odd_content_is_spelled_as_it_is(content: str) -> None:
    format_ = chat()
    made = encoded(row(user("a"), assistant(content)), format_)
    assert supervised(made, format_) == f"{content}<|im_end|>"


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
SHARED = chat()


@given(question=text, reply=text)
def test_any_text_is_trained_whole_or_refused_with_a_reason(question: str, reply: str) -> None:
    made = encode_row(row(user(question), assistant(reply)), SHARED)
    if isinstance(made, Refusal):
        assert made.reason
        return
    assert supervised(made, SHARED) == f"{reply}<|im_end|>"
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    assert made.input_ids[: made.start] == SHARED.codec.encode(prompt)


def test_more_end_tokens_may_follow_the_turn() -> None:
    """Phi-3 writes the sequence's end behind the turn's: the turn's is the one to learn."""
    format_ = chat(CHATML + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}")
    format_.codec.eos_tokens["<|endoftext|>"] = format_.codec.encode("<|endoftext|>")[0]
    made = encoded(row(user("a"), assistant("b")), format_)
    assert supervised(made, format_) == "b<|im_end|>"


# --- every way to be refused

DROPS = "{% for m in messages %}{% if m.role != 'tool' %}" + CHATML.split("-%}", 1)[1].replace(
    "{%- endfor -%}", "{% endif %}{% endfor %}"
)
CUTS = CHATML.replace("(m.content or '')", "(m.content or '').split('</think>')[-1]")
TOOL_TURNS = [user("a"), assistant("b"), {"role": "tool", "content": "seen"}, assistant("c")]
REFUSALS = {
    "over-long": (CHATML, [user("a"), assistant("b" * 10_000)], Kind.OVER_LONG, "max_length 10000"),
    "prompt opens thinking": (
        OPENING,
        [user("a"), assistant("b")],
        Kind.NO_THINKING,
        "opens `<think>`",
    ),
    "unclosed": (
        CHATML,
        [user("a"), assistant("<think>b")],
        Kind.UNCLOSED_THINKING,
        "never closes",
    ),
    "tool turn dropped": (DROPS, TOOL_TURNS, Kind.LOST_IN_RENDERING, "message 3 (`tool`)"),
    "answer cut": (
        CUTS,
        [user("a"), assistant("the tag </think> ends it")],
        Kind.LOST_IN_RENDERING,
        "which quotes `</think>`",
    ),
    "reasoning dropped": (
        CHATML.replace("m.reasoning_content", "false"),
        [user("a"), assistant("b", reasoning_content="why")],
        Kind.LOST_IN_RENDERING,
        "the thinking of message 2",
    ),
    "reasoning dropped, prompt opens it": (
        OPENING.replace("m.reasoning_content", "false"),
        [user("a"), assistant("b", reasoning_content="why")],
        Kind.LOST_IN_RENDERING,
        "drops the thinking",
    ),
    "another block before its own": (
        CHATML.replace(
            "(m.content", r"('<think></think>' if m.role == 'assistant' else '') + (m.content"
        ),
        [user("a"), assistant("<think>why</think>b")],
        Kind.LOST_IN_RENDERING,
        "first thinking block is not its own",
    ),
    "reasoning that quotes its end": (
        CHATML,
        [user("a"), assistant("b", reasoning_content="I write </think> and go on")],
        Kind.LOST_IN_RENDERING,
        "first thinking block is not its own",
    ),
    "call dropped": (
        CHATML,
        [user("a"), assistant("b", tool_calls=[CALL])],
        Kind.LOST_IN_RENDERING,
        "the tool call `add`",
    ),
    "template raises": (
        "{{ raise_exception('no such role') }}",
        [user("a"), assistant("b")],
        Kind.TEMPLATE_REFUSED,
        "no such role",
    ),
    "no end token": (
        CHATML.replace("<|im_end|>", ""),
        [user("a"), assistant("b")],
        Kind.NO_END_TOKEN,
        "not in an end token",
    ),
    "text after the end": (
        CHATML + "{% if not add_generation_prompt %}bye{% endif %}",
        [user("a"), assistant("b")],
        Kind.NO_END_TOKEN,
        "bye",
    ),
    "end token quoted": (
        CHATML,
        [user("a"), assistant("write <|im_end|> to stop")],
        Kind.END_TOKEN_INSIDE,
        "in its middle",
    ),
    "two assistant turns": (
        CHATML.replace("m.role +", "(m.role if loop.last else 'past') +"),
        [user("a"), assistant("b"), assistant("c")],
        Kind.PROMPT_NOT_A_PREFIX,
        "not a prefix",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_verified_is_refused_with_its_reason(case: str) -> None:
    template, messages, kind, reason = REFUSALS[case]
    made = refused(row(*messages), chat(template))
    assert made.kind is kind
    assert reason in made.reason
    assert made.text or kind is Kind.TEMPLATE_REFUSED


def test_dropped_tools_are_missed_and_rendered_ones_are_found() -> None:
    messages = [user("a"), assistant("b")]
    made = refused(row(*messages, tools=TOOLS), chat())
    assert made.kind is Kind.LOST_IN_RENDERING
    assert "tool 1 (`add`)" in made.reason
    for form in ("tools | tojson", "tools[0] | tojson(indent=4)"):
        encoded(row(*messages, tools=TOOLS), chat("{{ " + form + " }}" + CHATML))


def test_a_dropped_turn_is_missed_though_its_text_stands_elsewhere() -> None:
    """`seen` is also what the next turn says: found once, it can't count for both."""
    turns = [*TOOL_TURNS[:-1], assistant("seen")]
    assert refused(row(*turns), chat(DROPS)).kind is Kind.LOST_IN_RENDERING


def test_a_final_turn_that_is_dropped_is_not_found_in_its_own_header() -> None:
    drops_last = CHATML.replace("(m.content or '')", "('' if m.role == 'assistant' else m.content)")
    made = refused(row(user("a"), assistant("assistant")), chat(drops_last))
    assert made.kind is Kind.LOST_IN_RENDERING


def test_a_model_may_have_a_template_for_tools_of_its_own() -> None:
    named = ChatTemplate({"default": "plain", "tool_use": "{{ tools | tojson }}"}, {})
    assert named.render([], None, prompt=False) == named.text == "plain"
    assert named.render([], [{"a": "<"}], prompt=False) == '[{"a": "<"}]'


def test_thinking_may_be_asked_for() -> None:
    format_ = chat(require_think=True)
    encoded(row(user("a"), assistant("<think>why</think>b")), format_)
    encoded(row(user("a"), assistant("b", reasoning_content="why")), format_)
    for content in ("b", "<think>\n\n</think>b"):
        made = refused(row(user("a"), assistant(content)), format_)
        assert made.kind is Kind.NO_THINKING
        assert "require_think" in made.reason


def test_a_token_across_the_header_is_refused() -> None:
    """A tokenizer that joins the header's end and the opening tag leaves nothing to start at."""
    from preparekit import byte_tokenizer
    from tokenizers import AddedToken

    from worker import tokens

    made = byte_tokenizer()
    made.add_tokens([AddedToken("\n<think>", normalized=False)])
    ends = {"<|im_end|>": made.token_to_id("<|im_end|>")}
    codec = tokens.Codec(tokens.Answer(made.to_str(), {}, {}, ends))
    template = ChatTemplate({"default": OPENING}, {})
    format_ = Chat(template, codec, TAGS, max_length=1000)
    found = refused(row(user("a"), assistant("<think>b</think>c")), format_)
    assert found.kind is Kind.TOKENS_DIFFER
    assert "boundary" in found.reason


def test_a_tokenizer_that_cannot_spell_the_answer_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from worker import tokens

    words = {token: i for i, token in enumerate(["a", "<", ">", "\n", " ", "<|im_end|>", "?"])}
    made = Tokenizer(models.BPE(words, [], unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<|im_end|>"])
    codec = tokens.Codec(tokens.Answer(made.to_str(), {}, {}, {"<|im_end|>": 5}))
    format_ = Chat(ChatTemplate({"default": BARE}, {}), codec, TAGS, max_length=100)
    encoded(row(user("a"), assistant("aa")), format_)
    found = refused(row(user("a"), assistant("aba")), format_)
    assert found.kind is Kind.TOKENS_DIFFER
    assert "where the turn says `ba" in found.reason


def test_an_end_that_is_no_token_of_its_own_is_refused() -> None:
    """Written out byte by byte, it would never be the id at which generation stops."""
    format_ = chat(CHATML.replace("<|im_end|>", "</s>"))
    format_.codec.eos_tokens["</s>"] = 12345
    found = refused(row(user("a"), assistant("b")), format_)
    assert found.kind is Kind.NO_END_TOKEN


# --- lines that are no rows

LINES = {
    "not JSON": (b"{", "not valid JSON"),
    "no messages": (b'{"text": "a"}', "missing required field `messages`"),
    "messages a text": (b'{"messages": "a"}', "$.messages"),
    "no role": (b'{"messages": [{"content": "a"}]}', "messages[0].role"),
    "content a number": (b'{"messages": [{"role": "user", "content": 3}]}', "messages[0].content"),
    "calls a text": (
        b'{"messages": [{"role": "user", "content": "", "tool_calls": "x"}]}',
        "messages[0].tool_calls",
    ),
    "no assistant": (
        b'{"messages": [{"role": "assistant", "content": "b"}, {"role": "user", "content": "a"}]}',
        "no final assistant turn: the last message is of role `user`",
    ),
    "empty": (b'{"messages": []}', "no final assistant turn"),
    "no prompt": (b'{"messages": [{"role": "assistant", "content": "b"}]}', "no prompt"),
    "empty answer": (
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}',
        "turn is empty",
    ),
    "tools no JSON": (
        b'{"tools": "[", "messages": [{"role": "user", "content": "a"}]}',
        "not valid JSON",
    ),
    "not text": (b'{"messages": [{"role": "\xff"}]}', "not valid JSON"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_malformed_line_is_an_error_that_names_file_row_and_hint(case: str) -> None:
    line, reason = LINES[case]
    with pytest.raises(DataError) as caught:
        parse_row(line, 17, Path("rows.jsonl"))
    assert reason in caught.value.message
    assert (caught.value.file, caught.value.place) == ("rows.jsonl", "row 17")
    assert caught.value.hint


def test_tools_may_be_written_as_json_text_and_none_may_be_written_empty() -> None:
    messages = [user("a"), assistant("b")]
    for tools, read in ((json.dumps(TOOLS), TOOLS), (TOOLS, TOOLS), ([], None), ("", None)):
        line = json.dumps({"messages": messages, "tools": tools}).encode()
        assert parse_row(line, 1, Path("f")).tools == read


def test_rows_of_one_prompt_have_one_key() -> None:
    first, again = row(user("a"), assistant("b")), row(user("a"), assistant("c"))
    assert first.prompt_key == again.prompt_key != row(user("A"), assistant("b")).prompt_key
