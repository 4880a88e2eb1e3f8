"""Audits stop and resume for `jobspec audit resume`.

    python -m worker.audit.resume_command SPEC.json --root ROOT --ranks N --kills N --seed N

It prints an `AuditAnswer`, and exits with 3 if the spec can't be audited.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from jobspec.records.audit import AuditAnswer
from jobspec.spec import parsing
from jobspec.storage.layout import RootPaths
from worker.answer import answer
from worker.audit import resume
from worker.program import run_program


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker.audit.resume_command")
    parser.add_argument("spec", type=Path)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a directory to work in and keep")
    asked = parser.parse_args()
    try:
        code = answer(lambda: _audit(asked))
    except KeyboardInterrupt:
        code = 130  # the worker is killed and the directory deleted by now
    sys.exit(code)


def _audit(asked: argparse.Namespace) -> AuditAnswer:
    if asked.keep is not None:
        asked.keep.mkdir(parents=True)
        return _audit_in(asked.keep.absolute(), asked)
    with tempfile.TemporaryDirectory(prefix="jobspec-audit-") as directory:
        return _audit_in(Path(directory), asked)


def _audit_in(directory: Path, asked: argparse.Namespace) -> AuditAnswer:
    audit = resume.audit(
        parsing.load(asked.spec),
        RootPaths(asked.root.absolute()),
        directory,
        ranks=asked.ranks,
        count=asked.kills,
        seed=asked.seed,
    )
    return AuditAnswer(audit=audit)


if __name__ == "__main__":
    run_program(main)
