"""Make the pictures of README and docs, and the session in docs/demo.md, from a real demo.

    python docs/make_pictures.py --demo /tmp/demo      # runs the demo there, watching it
    python docs/make_pictures.py /tmp/demo             # it has run there; draws again

Writes docs/report.png (the page of `jobspec report`) and docs/status.png (`jobspec status` in a
terminal while the demo trains), taken by a headless Chromium, and replaces the session in
docs/demo.md by what the commands print. Needs the extra `dev`, chromium and
chromium-driver.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.support.browser import Browser, browser  # noqa: E402 - a helper of the tests

COLUMNS = 118
MIDWAY = "status.ansi"
_COMMANDS = (
    ("status",),
    ("compare", "demo-untrained", "demo-model-lr2e-3"),
    ("du",),
)
_TERMINAL = """<!doctype html><meta charset="utf-8"><style>
html {{ background: #14171b }} body {{ margin: 0; padding: 18px 22px; display: inline-block }}
pre {{ margin: 0; color: #e8eaed; font: 15px/1.35 "DejaVu Sans Mono", monospace }}
</style><pre>{}</pre>"""
_SHADES = {"2": "#a9b1ba", "31": "#ff9d94", "32": "#6fd39c", "33": "#f3b562", "36": "#7cc7e8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="where the demo ran or will run")
    parser.add_argument("--demo", action="store_true", help="run the demo there first")
    args = parser.parse_args()
    root = args.directory.absolute() / "root"
    if args.demo:
        _watch_the_demo(args.directory, root)
    page = args.directory.absolute() / "report.html"
    subprocess.run([*_jobspec("report"), "-o", str(page), "--root", str(root)], check=True)
    page.write_text(page.read_text().replace(str(root.parent), "/scratch/demo"))
    with browser() as window:
        window.open(page.as_uri(), width=1100, height=1500)
        window.driver.save_screenshot(str(HERE / "report.png"))
        _shoot_terminal(window, args.directory, (args.directory / MIDWAY).read_text())
    _renew(HERE / "demo.md", root)


def _watch_the_demo(directory: Path, root: Path) -> None:
    """Run the demo, and keep what `jobspec status` prints when one has ended and another trains."""
    demo = subprocess.Popen([*_jobspec("demo"), "--root", str(directory)])
    while demo.poll() is None:
        if not (directory / MIDWAY).exists() and _is_midway(root):
            (directory / MIDWAY).write_text(_run(("status",), root, colour=True))
        time.sleep(0.2)
    if demo.returncode:
        sys.exit(demo.returncode)


def _is_midway(root: Path) -> bool:
    if not (root / "FORMAT").exists():
        return False
    found = json.loads(_run(("status", "--json"), root))
    ended = found["counts"]["succeeded"] > 0
    return ended and any((row["progress"] or 0) > 0.3 for row in found["jobs"])


def _jobspec(*words: str) -> list[str]:
    return [sys.executable, "-m", "jobspec.cli", *words]


def _run(words: tuple[str, ...], root: Path, *, colour: bool = False) -> str:
    """What a command prints, its root's path shortened."""
    done = subprocess.run(
        [*_jobspec(*words), "--root", str(root)],
        env={"COLUMNS": str(COLUMNS), "PATH": "", "FORCE_COLOR" if colour else "NO_COLOR": "1"},
        cwd=HERE.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout.replace(str(root.parent), "/scratch/demo")


def _shoot_terminal(window: Browser, directory: Path, text: str) -> None:
    drawing = directory / "status.html"
    drawing.write_text(_TERMINAL.format(_to_html(f"$ jobspec status\n{text}")))
    window.resize(1400, 900)
    window.driver.get(drawing.as_uri())
    box = window.js("const b = document.body.getBoundingClientRect(); return [b.width, b.height]")
    window.resize(*(round(side) for side in box))
    window.driver.save_screenshot(str(HERE / "status.png"))


def _to_html(text: str) -> str:
    """Text with the terminal's colours as spans."""
    text = text.replace("&", "&amp;").replace("<", "&lt;")

    def span(found: re.Match[str]) -> str:
        codes = found[1].split(";")
        if codes == ["0"]:
            return "</b>"
        shade = next((_SHADES[code] for code in codes if code in _SHADES), "inherit")
        weight = "bold" if "1" in codes else "normal"
        return f'<b style="font-weight:{weight};color:{shade}">'

    # click sets one attribute after another and resets them together.
    text = re.sub(r"\x1b\[([1-9]\d*)m\x1b\[([1-9]\d*)m", "\x1b[\\1;\\2m", text)
    return re.sub(r"\x1b\[([\d;]+)m", span, text)


def _renew(page: Path, root: Path) -> None:
    shown = "\n".join(f"$ jobspec {' '.join(words)}\n{_run(words, root)}" for words in _COMMANDS)
    shown = f"$ export JOBSPEC_ROOT=/scratch/demo/root\n{shown.rstrip()}"
    block = f"<!-- session: begin -->\n```console\n{shown}\n```\n<!-- session: end -->"
    text = re.sub(
        r"<!-- session: begin -->.*<!-- session: end -->",
        lambda _: block,
        page.read_text(),
        flags=re.DOTALL,
    )
    page.write_text(text)


if __name__ == "__main__":
    main()
