"""Inputs with the outputs that a program should give, packed into one text."""

from __future__ import annotations

import base64
import zlib

import msgspec


class ProgramCases(msgspec.Struct, frozen=True, kw_only=True):
    """What a generated program is tried with.

    Attributes:
        cases: pairs of what is given and what is wanted: standard input and output, or, for a
            function, its arguments (a JSON value a line) and its result as JSON.
        function: the function to call, perhaps a method of a class `Solution`.
    """

    cases: tuple[tuple[str, str], ...]
    function: str | None = None

    def packed(self) -> str:
        """Compressed: the cases of one question can have several megabytes."""
        return base64.b64encode(zlib.compress(msgspec.json.encode(self))).decode()


def unpack(text: str) -> ProgramCases:
    """What `packed` made. Raises ValueError."""
    try:
        return msgspec.json.decode(zlib.decompress(base64.b64decode(text)), type=ProgramCases)
    except (zlib.error, msgspec.MsgspecError) as error:
        raise ValueError(str(error)) from error
