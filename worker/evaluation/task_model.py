"""The model as lm-eval's own tasks see it: chat template, and answers that are there already."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lm_eval.api.instance import Instance

from jobspec.errors import TemplateError
from worker.evaluation.lm_eval_model import SamplingLM

# lm-eval's tasks make a request for each text of a document.
Key = tuple[str, int, int]


def request_key(request: Instance) -> Key:
    """Task, document and number of a request."""
    assert request.task_name is not None and request.doc_id is not None
    return request.task_name, request.doc_id, request.idx


class TaskModel(SamplingLM):
    """Gives lm-eval the answers in `answers`; a request that is repeated k times gets k of them."""

    def __init__(self, tokenizer: Any, chat_kwargs: dict[str, Any]) -> None:
        super().__init__(tokenizer, chat_kwargs, lambda prompts: {})
        self.answers: dict[Key, list[Any]] = {}

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Any]:
        return self._look_up(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        return self._look_up(requests)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[Any]:
        return self._look_up(requests)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """As lm-eval's own classes: a last turn of the assistant is to be continued.

        A template that knows no system turn gets the conversation without it.
        """
        begun = not add_generation_prompt and chat_history[-1]["role"] == "assistant"
        options: dict[str, Any] = {"add_generation_prompt": add_generation_prompt}
        options |= {"continue_final_message": True} if begun else {}
        try:
            return self.render(chat_history, **options)
        except TemplateError:
            without_system = [turn for turn in chat_history if turn["role"] != "system"]
            if without_system == chat_history:
                raise
            return self.render(without_system, **options)

    def _look_up(self, requests: list[Instance]) -> list[Any]:
        asked: Counter[Key] = Counter()
        found: list[Any] = []
        for request in requests:
            key = request_key(request)
            found.append(self.answers[key][asked[key]])
            asked[key] += 1
        return found
