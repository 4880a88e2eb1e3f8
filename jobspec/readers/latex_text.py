r"""Removes from LaTeX what only changes how it looks: `\textcolor{red}{70}` → `70`."""

from __future__ import annotations

import re

MOST_CHARACTERS = 2000  # a longer "answer" is prose, and is not looked at
_DEEPEST = 30

_COMMAND = re.compile(r"\\([A-Za-z]+)\*?")
_LETTERS = re.compile(r"[^\W\d_]")
_DIMENSION = re.compile(r"\s*\[[^\]]*\]")
# Commands whose arguments are not shown, with the number of arguments.
_DROPPED = {
    **dict.fromkeys(("phantom", "hphantom", "vphantom", "hspace", "vspace", "label", "tag"), 1),
    **dict.fromkeys(("color", "cancel", "bcancel", "xcancel", "sout", "footnote"), 1),
}
# Commands that show their last argument, with the number of arguments.
_SHOWN = {
    **dict.fromkeys(("textcolor", "colorbox", "scalebox", "href"), 2),
    "fcolorbox": 3,
    **dict.fromkeys(("boxed", "fbox", "bbox", "underline", "emph", "ensuremath", "mathop"), 1),
    **dict.fromkeys(("mathord", "mathbin", "underbar", "raisebox", "mathchoice"), 1),
}
_FONTS = (
    *("text", "textbf", "textit", "textrm", "textnormal", "textsf", "texttt", "textsc", "textup"),
    *("mbox", "hbox", "mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathnormal", "mathscr"),
    *("boldsymbol", "bm", "pmb", "operatorname", "mathcal", "mathfrak"),
)
_DECLARATIONS = frozenset(
    (
        *("displaystyle", "textstyle", "scriptstyle", "scriptscriptstyle", "limits"),
        *("nolimits", "tiny", "scriptsize", "footnotesize", "small", "normalsize", "large"),
        *("Large", "LARGE", "huge", "Huge", "bf", "it", "rm", "sf", "tt", "sc", "em"),
        *("bfseries", "itshape", "centering", "big", "Big", "bigg", "Bigg", "bigl", "bigr"),
        *("Bigl", "Bigr", "biggl", "biggr", "mathstrut", "strut", "nonumber", "notag"),
        *("noindent", "null", "relax", "checkmark", "blacksquare", "square", "qed", "Box"),
        *("hfill", "newline", "allowbreak"),
    )
)
_SPACES = frozenset(
    ("quad", "qquad", "enspace", "thinspace", "medspace", "thickspace", "space", "nobreakspace")
)
_DISPLAYS = frozenset(
    (
        *("aligned", "align", "alignedat", "gather", "gathered", "equation", "split"),
        *("multline", "displaymath", "math", "center", "eqnarray", "array", "minipage"),
        *("large", "Large"),
    )
)
_DELIMITERS = frozenset("()[]")


def plain_latex(latex: str) -> str:
    r"""The same formula without fonts, colours, sizes, spacing and displays around it.

    Words stay in `\text{…}`: `\mathbf{70}\,\mathrm{cm}` → `70 \text{cm}`. Matrices keep their rows.
    """
    if len(latex) > MOST_CHARACTERS:
        return latex
    rows_matter = re.search(r"\\begin\s*\{[a-z]*matrix|\\begin\s*\{cases", latex) is not None
    shown = _Cleaner(rows_matter).clean(latex.replace("{,}", ","), 0)
    return re.sub(r"\s+", " ", shown).strip()


class _Cleaner:
    """Copies LaTeX from left to right and leaves out what is not needed."""

    def __init__(self, rows_matter: bool) -> None:
        self._rows_matter = rows_matter

    def clean(self, text: str, depth: int) -> str:
        if depth > _DEEPEST:
            return text
        out: list[str] = []
        at = 0
        # Whether a brace that follows holds an argument: after `^`, `_` and unknown commands.
        argument = False
        while at < len(text):
            char = text[at]
            if char == "\\":
                piece, at, argument = self._command(text, at, depth)
                out.append(piece)
            elif char == "{":
                end = closing_brace(text, at)
                if end is None:
                    return "".join(out) + text[at:]
                inner = self.clean(text[at + 1 : end], depth + 1)
                out.append(f"{{{inner}}}" if argument else inner)
                at = end + 1
            else:
                if char == "&" and not self._rows_matter:
                    char = " "
                out.append("" if char == "$" else " " if char in "~\u00a0\u2009\u202f" else char)
                argument = char in "^_]" or (argument and char.isspace())
                at += 1
        return "".join(out)

    def _command(self, text: str, at: int, depth: int) -> tuple[str, int, bool]:
        """What stands for the command at `at`, where it ends, and if an argument may follow."""
        named = _COMMAND.match(text, at)
        if named is None:
            return (*self._symbol(text, at), False)
        name, end = named.group(1), named.end()
        if name in ("begin", "end"):
            return (*self._environment(name, text, end), False)
        if name in ("left", "right", "mleft", "mright", "middle"):
            return "", end + (text[end : end + 1] == "."), False
        if name in _DECLARATIONS or name in _SPACES:
            return " ", end, False
        if name in _DROPPED:
            return "", _skip(text, end, _DROPPED[name]), False
        if name in _SHOWN:
            start = _skip(text, end, _SHOWN[name] - 1)
            inner, end = _argument(text, start)
            return self.clean(inner, depth + 1), end, False
        if name in _FONTS:
            inner, end = _argument(text, end)
            return self._font(inner, depth), end, False
        return named.group(0), end, True

    def _font(self, inner: str, depth: int) -> str:
        r"""Words stay marked as text; numbers, formulas and single letters do not need it."""
        if "\\" in inner or "$" in inner or "{" in inner:
            return self.clean(inner, depth + 1)
        return f"\\text{{{inner}}}" if _LETTERS.search(inner) else inner

    def _symbol(self, text: str, at: int) -> tuple[str, int]:
        char = text[at + 1 : at + 2]
        if char == "\\":
            if self._rows_matter:
                return "\\\\", at + 2
            skipped = _DIMENSION.match(text, at + 2)
            return " ", skipped.end() if skipped else at + 2
        if char == "!":
            return "", at + 2 + len(text[at + 2 :]) - len(text[at + 2 :].lstrip())
        if char == "$" or char in _DELIMITERS:
            return "", at + 2
        if char in (",", ";", ":", ">", "/") or char.isspace():
            return " ", at + 2
        return text[at : at + 2], at + 2

    def _environment(self, name: str, text: str, at: int) -> tuple[str, int]:
        environment, end = _argument(text, at)
        kept = environment.rstrip("*") not in _DISPLAYS or self._rows_matter
        if kept:
            return f"\\{name}{{{environment}}}", end
        if name == "begin" and environment.startswith(("array", "alignedat", "minipage")):
            end = _skip(text, end, 1)
        return " ", end


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace at `start` closes; escaped braces do not count. None if it is left open."""
    depth = 0
    for found in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start):
        depth += {"{": 1, "}": -1}.get(found.group(0), 0)
        if depth == 0 and found.group(0) == "}":
            return found.start()
    return None


def _argument(text: str, at: int) -> tuple[str, int]:
    """The argument at `at` and where it ends: a group, a command or one character."""
    skipped = _DIMENSION.match(text, at)
    at = skipped.end() if skipped else at
    while at < len(text) and text[at].isspace():
        at += 1
    if text[at : at + 1] == "{":
        end = closing_brace(text, at)
        return (text[at + 1 :], len(text)) if end is None else (text[at + 1 : end], end + 1)
    named = _COMMAND.match(text, at)
    end = named.end() if named else min(at + 1, len(text))
    return text[at:end], end


def _skip(text: str, at: int, count: int) -> int:
    for _ in range(count):
        _, at = _argument(text, at)
    return at
