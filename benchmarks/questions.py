"""Questions and recorded answers of the forms of AIME and MATH-500, made from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

from benchmarks.text import TextSource

Row = dict[str, str]
AIME, MATH = 60, 500  # AIME 2024 and 2025, and MATH-500

# How often MATH-500 has answers of each form: most are integers.
_FORMS: tuple[tuple[int, Callable[[int, int, int], str]], ...] = (
    (60, lambda a, b, c: f"{a * b}"),
    (14, lambda a, b, c: rf"\frac{{{a}}}{{{b + 1}}}"),
    (5, lambda a, b, c: rf"{a} \sqrt{{{b + 2}}}"),
    (5, lambda a, b, c: f"({a},{-b})"),
    (4, lambda a, b, c: f"{a}x^2 - {b}x + {c}"),
    (3, lambda a, b, c: rf"{a} \pi"),
    (3, lambda a, b, c: rf"{a}^\circ"),
    (2, lambda a, b, c: rf"({-a},\infty)"),
    (2, lambda a, b, c: rf"\begin{{pmatrix}} {a} \\ {b} \end{{pmatrix}}"),
    (2, lambda a, b, c: rf"\text{{{'even' if a % 2 else 'odd'}}}"),
)


def aime(count: int = AIME) -> list[Row]:
    """Questions of about 60 words, with integers from 0 to 999 as answers."""
    rng = random.Random(1)
    text = TextSource(rng)
    return [
        {"id": f"q{at}", "problem": text.draw(60), "answer": str(rng.randrange(1000))}
        for at in range(count)
    ]


def math500(count: int = MATH) -> list[Row]:
    """Questions with a solution of about 100 words that ends in the boxed answer."""
    rng = random.Random(2)
    text = TextSource(rng)
    weights, forms = zip(*_FORMS, strict=True)
    rows: list[Row] = []
    for at in range(count):
        (form,) = rng.choices(forms, weights)
        answer = form(*(rng.randrange(1, 30) for _ in range(3)))
        solution = f"{text.draw(100)} Therefore, it is $\\boxed{{{answer}}}.$"
        rows.append(
            {"id": f"m{at}", "problem": text.draw(30), "solution": solution, "answer": answer}
        )
    return rows


def write(file: Path, rows: list[Row]) -> Path:
    """Write the rows of a benchmark file; returns its path."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
