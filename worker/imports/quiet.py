"""Libraries without their remarks, and without imports that nothing here needs."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator

from worker.imports.lean import lean


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Call lm-eval in here: errors are still logged, nothing else.

    Its environment report runs pip, lscpu and git, 1.5 s a call; what it would say stands in the
    attempt's manifest and in each benchmark's protocol.
    """
    from lm_eval import evaluator

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    add_env_info = evaluator.add_env_info
    evaluator.add_env_info = lambda storage: None
    try:
        yield
    finally:
        evaluator.add_env_info = add_env_info


def import_transformers() -> None:
    """Import what of transformers every evaluation uses, without what it brings unused.

    transformers' assisted generation imports scikit-learn, and with it scipy, where it is
    installed: a fifth of an evaluation's start, for nothing used here. lm-eval's tasks that do use
    it still find it afterwards.
    """
    if "sklearn" in sys.modules or "transformers.generation" in sys.modules:
        return
    with lean(adapters=True):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 - the import is the point
