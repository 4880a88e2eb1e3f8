"""Every way in which a row is refused, with its reason."""

from __future__ import annotations

import pytest

from tests.support.models import BARE, CHATML, OPENING
from tests.support.prepared import (
    CALL,
    TAGS,
    TOOL_TURNS,
    TOOLS,
    assistant,
    chat,
    encoded,
    refused,
    row,
    user,
)
from worker.data.chat_template import ChatTemplate
from worker.data.encode import DropKind, RowEncoder

DROPS = "{% for m in messages %}{% if m.role != 'tool' %}" + CHATML.split("-%}", 1)[1].replace(
    "{%- endfor -%}", "{% endif %}{% endfor %}"
)
CUTS = CHATML.replace("(m.content or '')", "(m.content or '').split('</think>')[-1]")


REFUSALS = {
    "over-long": (
        CHATML,
        [user("a"), assistant("b" * 10_000)],
        DropKind.OVER_LONG,
        "max_length 10000",
    ),
    "prompt opens thinking": (
        OPENING,
        [user("a"), assistant("b")],
        DropKind.NO_THINKING,
        "opens `<think>`",
    ),
    "prompt writes an empty block": (
        OPENING.replace("assistant\\n<think>'", "assistant\\n<think></think>'"),
        [user("a"), assistant("b")],
        DropKind.PROMPT_NOT_A_PREFIX,
        "(the prompt ends with `<think></think>`, and the row's turn is `b",
    ),
    "unclosed": (
        CHATML,
        [user("a"), assistant("<think>b")],
        DropKind.UNCLOSED_THINKING,
        "never closes",
    ),
    "tool turn dropped": (DROPS, TOOL_TURNS, DropKind.LOST_IN_RENDERING, "message 3 (`tool`)"),
    "answer cut": (
        CUTS,
        [user("a"), assistant("the tag </think> ends it")],
        DropKind.LOST_IN_RENDERING,
        "which quotes `</think>`",
    ),
    "reasoning dropped": (
        CHATML.replace("m.reasoning_content", "false"),
        [user("a"), assistant("b", reasoning_content="why")],
        DropKind.LOST_IN_RENDERING,
        "the thinking of message 2",
    ),
    "reasoning dropped, prompt opens it": (
        OPENING.replace("m.reasoning_content", "false"),
        [user("a"), assistant("b", reasoning_content="why")],
        DropKind.LOST_IN_RENDERING,
        "drops the thinking",
    ),
    "another block before its own": (
        CHATML.replace(
            "(m.content", r"('<think></think>' if m.role == 'assistant' else '') + (m.content"
        ),
        [user("a"), assistant("<think>why</think>b")],
        DropKind.LOST_IN_RENDERING,
        "starts with another think block",
    ),
    "reasoning that quotes its end": (
        CHATML,
        [user("a"), assistant("b", reasoning_content="I write </think> and go on")],
        DropKind.LOST_IN_RENDERING,
        "starts with another think block",
    ),
    "call dropped": (
        CHATML,
        [user("a"), assistant("b", tool_calls=[CALL])],
        DropKind.LOST_IN_RENDERING,
        "the tool call `add`",
    ),
    "template raises": (
        "{{ raise_exception('no such role') }}",
        [user("a"), assistant("b")],
        DropKind.TEMPLATE_REFUSED,
        "no such role",
    ),
    "no end token": (
        CHATML.replace("<|im_end|>", ""),
        [user("a"), assistant("b")],
        DropKind.NO_END_TOKEN,
        "not in an end token",
    ),
    "text after the end": (
        CHATML + "{% if not add_generation_prompt %}bye{% endif %}",
        [user("a"), assistant("b")],
        DropKind.NO_END_TOKEN,
        "bye",
    ),
    "end token quoted": (
        CHATML,
        [user("a"), assistant("write <|im_end|> to stop")],
        DropKind.END_TOKEN_INSIDE,
        "contains an end-of-turn token",
    ),
    "two assistant turns": (
        CHATML.replace("m.role +", "(m.role if loop.last else 'past') +"),
        [user("a"), assistant("b"), assistant("c")],
        DropKind.PROMPT_NOT_A_PREFIX,
        "not a prefix",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_verified_is_refused_with_its_reason(case: str) -> None:
    template, messages, kind, reason = REFUSALS[case]
    made = refused(row(*messages), chat(template))
    assert made.kind is kind
    assert reason in made.reason
    assert made.text or kind is DropKind.TEMPLATE_REFUSED


def test_dropped_tools_are_missed_and_rendered_ones_are_found() -> None:
    messages = [user("a"), assistant("b")]
    made = refused(row(*messages, tools=TOOLS), chat())
    assert made.kind is DropKind.LOST_IN_RENDERING
    assert "tool 1 (`add`)" in made.reason
    for form in ("tools | tojson", "tools[0] | tojson(indent=4)"):
        encoded(row(*messages, tools=TOOLS), chat("{{ " + form + " }}" + CHATML))


def test_a_dropped_turn_is_missed_though_its_text_stands_elsewhere() -> None:
    """`seen` is also what the next turn says: found once, it can't count for both."""
    turns = [*TOOL_TURNS[:-1], assistant("seen")]
    assert refused(row(*turns), chat(DROPS)).kind is DropKind.LOST_IN_RENDERING


def test_a_final_turn_that_is_dropped_is_not_found_in_its_own_header() -> None:
    drops_last = CHATML.replace("(m.content or '')", "('' if m.role == 'assistant' else m.content)")
    made = refused(row(user("a"), assistant("assistant")), chat(drops_last))
    assert made.kind is DropKind.LOST_IN_RENDERING


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
        assert made.kind is DropKind.NO_THINKING
        assert "require_think" in made.reason


def test_a_token_across_the_header_is_refused() -> None:
    """A tokenizer that joins the header's end and the opening tag leaves nothing to start at."""
    from tokenizers import AddedToken

    from tests.support.models import byte_tokenizer
    from worker.data import tokenizer

    made = byte_tokenizer()
    made.add_tokens([AddedToken("\n<think>", normalized=False)])
    ends = {"<|im_end|>": made.token_to_id("<|im_end|>")}
    codec = tokenizer.Codec(tokenizer.TokenizerFacts(made.to_str(), {}, {}, ends))
    template = ChatTemplate({"default": OPENING}, {})
    format_ = RowEncoder(template, codec, TAGS, max_length=1000)
    found = refused(row(user("a"), assistant("<think>b</think>c")), format_)
    assert found.kind is DropKind.TOKENS_DIFFER
    assert "boundary" in found.reason


def test_a_tokenizer_that_cannot_spell_the_answer_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from worker.data import tokenizer

    words = {token: i for i, token in enumerate(["a", "<", ">", "\n", " ", "<|im_end|>", "?"])}
    made = Tokenizer(models.BPE(words, [], unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens(["<|im_end|>"])
    codec = tokenizer.Codec(tokenizer.TokenizerFacts(made.to_str(), {}, {}, {"<|im_end|>": 5}))
    format_ = RowEncoder(ChatTemplate({"default": BARE}, {}), codec, TAGS, max_length=100)
    encoded(row(user("a"), assistant("aa")), format_)
    found = refused(row(user("a"), assistant("aba")), format_)
    assert found.kind is DropKind.TOKENS_DIFFER
    assert "where the turn has `ba" in found.reason


def test_an_end_that_is_no_token_of_its_own_is_refused() -> None:
    """Written out byte by byte, it would never be the id at which generation stops."""
    format_ = chat(CHATML.replace("<|im_end|>", "</s>"))
    format_.codec.eos_tokens["</s>"] = 12345
    found = refused(row(user("a"), assistant("b")), format_)
    assert found.kind is DropKind.NO_END_TOKEN
