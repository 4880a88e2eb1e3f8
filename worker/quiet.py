"""lm-eval without its environment report and its remarks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


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
