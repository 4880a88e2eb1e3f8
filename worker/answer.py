"""How a program that the command line runs answers: a line of JSON, and an exit code."""

from __future__ import annotations

import os
from collections.abc import Callable

from jobspec.errors import JobspecError
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.answers import ErrorAnswer, ErrorDetails
from jobspec.records.base import Record


def answer(make: Callable[[], Record]) -> int:
    """Print what `make` returns, or `{"error": {...}}` if it raises; returns the exit code.

    Anything else that is printed meanwhile goes to stderr: a model's own code may print.
    """
    answers_to = os.dup(1)
    os.dup2(2, 1)
    try:
        made = make()
    except JobspecError as error:
        made = ErrorAnswer(error=ErrorDetails.of(error))
    with os.fdopen(answers_to, "wb") as out:
        out.write(records.encode_line(made))
    return exit_codes.REFUSED if isinstance(made, ErrorAnswer) else exit_codes.DONE


def refusal(check: Callable[[], None]) -> str | None:
    """Why a check refuses, in one line; None if it does not."""
    try:
        check()
    except JobspecError as error:
        return str(error).splitlines()[0]
    return None
