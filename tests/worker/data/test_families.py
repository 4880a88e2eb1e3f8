"""Other families than Qwen3 and Olmo-3: trained exactly, or refused with the reason.

The templates are the real ones, as TRL carries them. The tokenizers are made here: one of bytes
with each family's special tokens, and two of the SentencePiece kind, which write a space of their
own before whatever begins a text.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from jobspec.errors import ModelError
from tests.support.models import BARE
from tests.support.paths import DATA, needs_data
from tests.support.prepared import TAGS, assistant, chat, real_chat, row, user
from worker.data import tokenizer as tokens
from worker.data.chat_template import ChatTemplate
from worker.data.dataset_cache import IGNORED
from worker.data.encode import DropKind, EncodedRow, RefusedRow, RowEncoder, encode_row
from worker.rows.jsonl import Scan
from worker.rows.row import parse_row

THINK = "<think>\nTwo and two.\n</think>\n\nIt is 4."
ROWS = {
    "plain": row(user("2+2?"), assistant("It is 4.")),
    "think": row(user("2+2?"), assistant(THINK)),
    "reasoning": row(user("2+2?"), assistant("It is 4.", reasoning_content="Two and two.")),
    "turns": row(
        {"role": "system", "content": "Be brief."},
        user("1+1?"),
        assistant("<think>\nOne.\n</think>\n\nIt is 2."),
        user("2+2?"),
        assistant(THINK),
    ),
}
LOST, NOT_OPENED = DropKind.LOST_IN_RENDERING, DropKind.NO_THINKING
# What is trained after each conversation above, or why nothing is. EOT stands for the end of turn.
VERBATIM = {
    "plain": "It is 4.EOT",
    "think": f"{THINK}EOT",
    "reasoning": LOST,
    "turns": f"{THINK}EOT",
}
FAMILIES: dict[str, tuple[str, dict[str, str | DropKind]]] = {
    "llama3": ("<|eot_id|>", VERBATIM),
    "llama3_1": ("<|eot_id|>", VERBATIM),
    "llama3_2": ("<|eot_id|>", VERBATIM),
    "gemma": ("<end_of_turn>", {**VERBATIM, "turns": DropKind.TEMPLATE_REFUSED}),
    "gemma3": ("<end_of_turn>", VERBATIM),
    "gemma4_v5": (
        "<turn|>",
        {**VERBATIM, "reasoning": "<|channel>thought\nTwo and two.\n<channel|>It is 4.EOT"},
    ),
    "phi3": ("<|end|>", VERBATIM),
    "qwen2_5": ("<|im_end|>", VERBATIM),
    "qwen3_instruct_2507": ("<|im_end|>", VERBATIM),
    "qwen3": (
        "<|im_end|>",
        {
            "plain": "<think>\n\n</think>\n\nIt is 4.EOT",
            "think": f"{THINK}EOT",
            "reasoning": f"{THINK}EOT",
            "turns": f"{THINK}EOT",
        },
    ),
    # It writes an empty block before thinking that stands in the content.
    "qwen3_8": (
        "<|im_end|>",
        {
            "plain": "<think>\n\n</think>\n\nIt is 4.EOT",
            "think": LOST,
            "reasoning": f"{THINK}EOT",
            "turns": LOST,
        },
    ),
    "cohere2": (
        "<|END_OF_TURN_TOKEN|>",
        {
            "plain": "It is 4.<|END_RESPONSE|>EOT",
            "think": f"{THINK}<|END_RESPONSE|>EOT",
            "reasoning": LOST,
            "turns": f"{THINK}<|END_RESPONSE|>EOT",
        },
    ),
    # Its template cuts thinking out of every turn, so nothing it opens can be learned.
    "deepseek_r1_distill": (
        "<｜end▁of▁sentence｜>",
        {"plain": NOT_OPENED, "think": LOST, "reasoning": LOST, "turns": LOST},
    ),
    "deepseek_r1_distill_training": (
        "<｜end▁of▁sentence｜>",
        {"plain": NOT_OPENED, "think": f"{THINK}EOT", "reasoning": LOST, "turns": f"{THINK}EOT"},
    ),
    "gptoss": (
        "<|return|>",
        {
            "plain": "<|channel|>final<|message|>It is 4.EOT",
            "think": f"<|channel|>final<|message|>{THINK}EOT",
            "reasoning": LOST,
            "turns": f"<|channel|>final<|message|>{THINK}EOT",
        },
    ),
    # It writes no end of turn at all: generation is stopped by the next turn's header.
    "glm4moe": ("<|user|>", dict.fromkeys(ROWS, DropKind.NO_END_TOKEN)),
    "nemotron_3_nano": (
        "<|im_end|>",
        {
            "plain": NOT_OPENED,
            "think": f"{THINK}EOT",
            "reasoning": "<think>\nTwo and two.\n</think>\nIt is 4.EOT",
            "turns": f"{THINK}EOT",
        },
    ),
    # A template for images: texts as plain strings are dropped by it.
    "idefics3": ("<|im_end|>", dict.fromkeys(ROWS, LOST)),
}


def trl_template(name: str) -> str:
    found = importlib.util.find_spec("trl")
    if found is None or not found.submodule_search_locations:
        pytest.skip("TRL is not installed, whose templates these are")
    return (Path(found.submodule_search_locations[0]) / f"chat_templates/{name}.jinja").read_text()


def supervised(made: EncodedRow, with_: RowEncoder) -> str:
    return with_.codec.spell([token for token in made.labels if token != IGNORED])


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_trained_exactly_or_refused_with_the_reason(name: str, case: str) -> None:
    eos, expected = FAMILIES[name]
    format_ = chat(trl_template(name), eos=eos)
    made = encode_row(ROWS[case], format_)
    wanted = expected[case]
    if isinstance(wanted, DropKind):
        assert isinstance(made, RefusedRow), made
        assert made.kind is wanted
        assert made.reason
        return
    assert isinstance(made, EncodedRow), made
    assert supervised(made, format_) == wanted.replace("EOT", eos)


def test_an_empty_reasoning_field_does_not_hide_thinking_in_the_content() -> None:
    """Qwen3's template then writes an empty block, and the content's own one after it."""
    made = encode_row(
        row(user("2+2?"), assistant(THINK, reasoning_content="")), chat(trl_template("qwen3"))
    )
    assert isinstance(made, RefusedRow)
    assert "starts with another think block" in made.reason


def test_content_in_parts_is_trained_where_the_template_reads_parts() -> None:
    parts = [{"type": "text", "text": "It is"}, {"type": "text", "text": "4."}]
    turns = row({"role": "user", "content": [{"type": "text", "text": "2+2?"}]}, assistant("4"))
    format_ = chat(trl_template("gemma3"), eos="<end_of_turn>")
    made = encode_row(turns, format_)
    assert isinstance(made, EncodedRow)
    turns.messages[-1]["content"] = parts
    made = encode_row(turns, format_)
    assert isinstance(made, EncodedRow)
    assert supervised(made, format_) == "It is4.<end_of_turn>"
    assert isinstance(encode_row(turns, chat(trl_template("qwen3"))), RefusedRow)


# --- tokenizers that make up a space

TEXTS = ["b", " b", "<think>\nb", "\nb", "b  c", "é"]


def space_makers() -> dict[str, Tokenizer]:
    """Llama-2's two ways to write: a space before every segment, and before the first only."""
    bytes_ = {f"<0x{value:02X}>": 3 + value for value in range(256)}
    words = {text: 259 + i for i, text in enumerate("▁ abc<>/thinkA".replace(" ", ""))}
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **bytes_, **words}
    made: dict[str, Tokenizer] = {}
    for name in ("every segment", "the first"):
        tokenizer = Tokenizer(
            models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
        )
        replaced = normalizers.Replace(" ", "▁")
        parts: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
        if name == "every segment":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), replaced])
        else:
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<s>", "</s>")])
        made[name] = tokenizer
    return made


@pytest.mark.parametrize("name", ["every segment", "the first"])
def test_no_made_up_space_gets_into_the_trained_turn(name: str) -> None:
    tokenizer = space_makers()[name]
    codec = tokens.Codec(tokens.TokenizerFacts(tokenizer.to_str(), {}, {}, {"</s>": 2}))
    assert codec.encode("b") == tokenizer.encode(" b", add_special_tokens=False).ids[-2:]
    template = ChatTemplate({"default": BARE.replace("<|im_end|>", "</s>")}, {})
    format_ = RowEncoder(template, codec, TAGS, max_length=100)
    for text in TEXTS:
        ids = codec.encode_rest(text)
        assert ids is not None
        assert codec.spell(ids) == text
        if text.strip().startswith("<think>"):
            continue
        made = encode_row(row(user("a"), assistant(text)), format_)
        assert isinstance(made, EncodedRow), made
        assert supervised(made, format_) == f"{text}</s>"
        made_up = made.input_ids[made.start] == tokenizer.token_to_id("▁")
        assert made_up == text.startswith(" ")


def test_a_tokenizer_that_loses_text_is_refused() -> None:
    lossy = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    lossy.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match="does not decode parts"):
        tokens.Codec(tokens.TokenizerFacts(lossy.to_str(), {}, {}, {"a": 0}))


@needs_data
@pytest.mark.data
def test_a_small_llama_with_byte_fallback_trains_real_rows(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DATA / "tiny_stories260k_hf", model, copy_function=shutil.copyfile)
    template = tmp_path / "t.jinja"
    template.write_text(
        r"""{{ bos_token }}{% for m in messages %}{{ '[' + m.role + ']\n' + m.content }}"""
        r"""{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"""
        r"""{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}"""
    )
    format_ = real_chat(model, tmp_path / "root", template)
    data = DATA / "sft_reasoning.jsonl"
    rows = [parse_row(line, number, data) for number, line in Scan.of(data).lines()]
    for one in rows[:40]:
        made = encode_row(one, format_)
        assert isinstance(made, EncodedRow), made
        assert supervised(made, format_) == one.messages[-1]["content"] + "</s>"
        assert made.input_ids[0] == 1
