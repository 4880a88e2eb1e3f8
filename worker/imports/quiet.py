"""Calls lm-eval without its log output, and imports Transformers without unused packages."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from worker.imports.lean import lean

# Libraries read these when they are imported.
_VARIABLES = {
    # Threads of OpenMP that spin while they wait slow decoding tenfold on a busy machine.
    "OMP_WAIT_POLICY": "passive",
    # Progress bars only clutter a log.
    "TQDM_DISABLE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def set_library_variables() -> None:
    """Set what libraries read, for this process and those that it starts."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)


def hush_torchao() -> None:
    """Keep its reports about kernels for other GPUs off the user's screen. Imports nothing."""
    for library in ("torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Call lm-eval inside this context, which logs only errors.

    It also skips lm-eval's environment report, which runs pip, lscpu and git and takes 1.5 s per
    call. The attempt's manifest and each benchmark's protocol contain the same facts.
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
    """Import the parts of Transformers that every evaluation uses, without unused packages.

    Its assisted generation imports scikit-learn and scipy if they are installed. The imports of an
    evaluation take 6.7 s of CPU time, and 2.4 s more (35 %, 921 modules) with these. Tasks of
    lm-eval that need them can import them afterwards.
    """
    if "sklearn" in sys.modules or "transformers.generation" in sys.modules:
        return
    with lean(adapters=True):
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401 - the import is the point
