"""The model as lm-eval sees it: takes prompts, returns k independent samples for each question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from jobspec.errors import ModelError, TemplateError
from jobspec.records.evaluation import Generation
from worker.thinking import ThinkTags

# For each task the prompts by question id.
Prompts = Mapping[str, Mapping[str, str]]
Samples = Mapping[str, Mapping[str, list[Generation]]]


class SamplingLM(LM):
    """Answers lm-eval's `generate_until` with samples that `draw` generates or reads from disk.

    lm-eval repeats a request k times in a row; the n-th repetition gets sample n, which has a seed
    of its own. lm-eval's response cache stays off: it is keyed by prompt and would return the same
    text for all k samples.
    """

    def __init__(
        self, tokenizer: Any, chat_kwargs: Mapping[str, Any], draw: Callable[[Prompts], Samples]
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._chat_kwargs = dict(chat_kwargs)
        self._draw = draw

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        """A Generation or None for each request. lm-eval asks for all benchmarks in one call.

        lm-eval declares `str`, but passes whatever it gets to the task's filter.
        """
        prompts: dict[str, dict[str, str]] = {}
        for request in requests:
            prompts.setdefault(str(request.task_name), {})[request.doc["id"]] = request.args[0]
        samples = self._draw(prompts)
        asked: Counter[tuple[str, str]] = Counter()
        answers = []
        for request in requests:
            name = (str(request.task_name), request.doc["id"])
            rows = samples[name[0]][name[1]]
            # A stop rule may have ended sampling before lm-eval's number of repetitions.
            answers.append(rows[asked[name]] if asked[name] < len(rows) else None)
            asked[name] += 1
        return answers

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The conversation as the model's chat template renders it. Raises TemplateError."""
        return self.render(chat_history, add_generation_prompt=add_generation_prompt)

    def render(self, turns: list[dict[str, str]], **options: Any) -> str:
        """The turns as the model's chat template renders them with these options."""
        try:
            return self.tokenizer.apply_chat_template(
                turns, tokenize=False, **options, **self._chat_kwargs
            )
        except jinja2.TemplateError as error:
            raise TemplateError(
                f"the chat template refuses the question: {error}",
                file=self.tokenizer.name_or_path,
                hint="see `model.chat_template` and `eval.chat_template_kwargs`",
            ) from error

    def opens_think(self, tags: ThinkTags | None) -> bool:
        """Whether the chat template opens a think block at the start of the answer."""
        turn = [{"role": "user", "content": "Hi"}]
        asked, bare = (self.apply_chat_template(turn, prompt) for prompt in (True, False))
        shared = 0
        while shared < min(len(asked), len(bare)) and asked[shared] == bare[shared]:
            shared += 1
        return tags is not None and tags.left_open(asked[shared:])

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.tokenizer.chat_template if chat_template else None

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError("tasks scored by likelihood go to lm-eval's own model classes")

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError("tasks scored by likelihood go to lm-eval's own model classes")


def load_tokenizer(directory: str, *, template: str | None, trust_remote_code: bool) -> Any:
    """The model's tokenizer, with the chat template of the file `template` if one is given.

    Raises:
        ModelError: the directory has no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            "no tokenizer can be loaded",
            file=directory,
            hint="a checkpoint to score needs its tokenizer files beside the weights",
        ) from error
    if template is not None:
        tokenizer.chat_template = _read_template(template)
    return tokenizer


def _read_template(path: str) -> str:
    from pathlib import Path

    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise TemplateError(
            f"can't be read: {error.strerror}", file=path, place="$.model.chat_template"
        ) from error
