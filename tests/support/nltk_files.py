"""A small `punkt_tab` in the form that NLTK publishes, made by NLTK from a few sentences."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.commands import run_checked

_MAKE = """
import os, sys
os.environ["NLTK_DATA"] = sys.argv[1]
from nltk.tokenize.punkt import PunktTrainer, save_punkt_params
trainer = PunktTrainer()
trainer.train("He came home. It was late. She slept. They left at once.", finalize=True)
save_punkt_params(trainer.get_params(), dir=sys.argv[1] + "/tokenizers/punkt_tab/english")
"""


def make_punkt(directory: Path) -> Path:
    """Write it below a directory for $NLTK_DATA; returns that."""
    (directory / "tokenizers" / "punkt_tab" / "english").mkdir(parents=True, mode=0o700)
    run_checked([sys.executable, "-c", _MAKE, directory])
    return directory
