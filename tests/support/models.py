"""Builds model directories: tokenizers, configurations, tiny models with and without weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.paths import DATA

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
PATIENT = '''
import time
from pathlib import Path
from transformers import Olmo3ForCausalLM


class Patient(Olmo3ForCausalLM):
    """A model with the step time of a large one but without CPU use, until `hurry`."""

    def __init__(self, config):
        super().__init__(config)
        self.model.register_forward_pre_hook(self.linger)

    def linger(self, module, args):
        if not Path("{hurry}").exists():
            time.sleep({pace_s})
'''

# Of a model small enough to train in a test, for any family's configuration.
WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": None,
}


def byte_tokenizer(special: Iterable[str] = SPECIAL) -> Tokenizer:
    """One token a byte, and the special ones: every text round-trips."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, normalized=False) for text in special])
    return made


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


def write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A safetensors file of zeros, in float32."""
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


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


def stories_model(directory: Path, *, template: str | None = CHAT, context: int = 4096) -> Path:
    """A copy of the trained 260K-parameter model, with room for the prompts and a chat template."""
    shutil.copytree(DATA / "tiny_stories260k_hf", directory, copy_function=shutil.copyfile)
    directory.chmod(0o755)
    config = json.loads((directory / "config.json").read_text())
    config["max_position_embeddings"] = context
    (directory / "config.json").write_text(json.dumps(config))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory


def coded_model(tiny: Path, model: Path, code: str) -> Path:
    """The tiny model with a class of its own: the one, of this name, that `code` defines."""
    shutil.copytree(tiny / "model", model)
    name = model.name.capitalize()
    (model / f"{model.name}.py").write_text(code)
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": f"{model.name}.{name}"}}
    (model / "config.json").write_text(json.dumps(config | {"architectures": [name]}))
    return model


def patient_model(tiny: Path, directory: Path, pace_s: float) -> Path:
    """A model in `directory` whose forwards last `pace_s`, until the test writes `hurry`.

    So that a job is in mid-training when a test has got there, however fast the machine, and is
    done soon after it: saving a state now and then costs more than all of a tiny model's steps.
    """
    model = directory / "patient"
    return coded_model(tiny, model, PATIENT.format(hurry=model / "hurry", pace_s=pace_s))


def hurry(model: Path) -> None:
    (model / "hurry").touch()


def vllm_model(directory: Path, template: str | None = None) -> Path:
    """A model whose heads are as wide as vLLM's CPU attention needs, 32, and its rows beside it.

    It has no generation_config.json, as many models.
    """
    from worker.demo import tiny_model

    model = directory / "model"
    tiny_model.make_model(model, hidden=128)
    (model / "generation_config.json").unlink()
    if template is not None:
        (model / "chat_template.jinja").write_text(template)
    tiny_model.make_rows(directory)
    return model
