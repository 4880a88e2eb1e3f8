"""Runs generated programs with their question's tests, or inputs and outputs, in the sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jobspec.readers import program_cases
from jobspec.readers.program_cases import ProgramCases
from jobspec.records.evaluation import Reading
from worker.lm_eval_tasks import sandbox

CASE_LIMIT_S = 6  # as in LiveCodeBench's own checker
CASES_LIMIT_S = 60

# Runs inside of the sandbox, with PROGRAM, CASES, FUNCTION and SECONDS before it: each case in a
# process of its own, so that a program may end itself or change anything.
_TRY_CASES = """
import decimal, json, os, signal, sys

def number(word):
    try:
        return decimal.Decimal(word)
    except decimal.InvalidOperation:
        return None

def same_line(one, other):
    words = one.split(), other.split()
    return one == other or len(words[0]) == len(words[1]) and all(
        a == b or (number(a) is not None and number(a) == number(b)) for a, b in zip(*words))

def same_output(given, wanted):
    lines = [[line.strip() for line in text.strip().split("\\n")] for text in (given, wanted)]
    return len(lines[0]) == len(lines[1]) and all(map(same_line, *lines))

def result_of(space, arguments):
    owner = space["Solution"]() if "Solution" in space else None
    function = getattr(owner, FUNCTION) if owner is not None else space[FUNCTION]
    return json.dumps(json.loads(json.dumps(function(*map(json.loads, arguments.splitlines())))))

def run_case(given):
    for number_, name, flags in ((0, "in", os.O_RDONLY), (1, "out", os.O_WRONLY | os.O_TRUNC)):
        os.dup2(os.open(name, flags), number_)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)
    space = {"__name__": "__main__"}
    try:
        exec(compile(PROGRAM, "program.py", "exec"), space)
        if FUNCTION is not None:
            result = result_of(space, given)
            sys.stdout.flush()
            os.ftruncate(1, 0)
            os.lseek(1, 0, os.SEEK_SET)
            sys.stdout = open(1, "w", closefd=False)
            sys.stdout.write(result)
    except SystemExit as end:
        if end.code not in (None, 0):
            os._exit(1)
    except BaseException:
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)

def passes(given, wanted):
    for name, text in (("in", given), ("out", "")):
        with open(name, "w") as file:
            file.write(text)
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        run_case(given)
    if os.waitpid(child, 0)[1] != 0:
        return False
    with open("out", errors="replace") as file:
        output = file.read()
    if FUNCTION is not None:
        return json.loads(output) == json.loads(wanted)
    return same_output(output, wanted)

assert all(passes(given, wanted) for given, wanted in CASES)
"""


def pass_tests(tried: Iterable[tuple[str, Reading]]) -> list[bool]:
    """Whether each program passes the tests of its question.

    Raises:
        BenchmarkError: there is no sandbox on this machine.
    """
    pairs = list(tried)
    if not pairs:
        return []
    sandbox.require()
    plain = [i for i, (_, reading) in enumerate(pairs) if reading.cases is None]
    passed = dict(zip(plain, _pass_plain([pairs[i] for i in plain]), strict=True))
    others = [i for i in range(len(pairs)) if i not in passed]
    made = [_with_cases(program, reading) for program, reading in (pairs[i] for i in others)]
    outcomes = sandbox.pass_all(made, time_limit_s=CASES_LIMIT_S)
    passed |= dict(zip(others, outcomes, strict=True))
    return [passed[i] for i in range(len(pairs))]


def _pass_plain(pairs: Sequence[tuple[str, Reading]]) -> list[bool]:
    return sandbox.pass_all(
        [f"{reading.setup or ''}\n{program}\n{reading.tests or ''}" for program, reading in pairs]
    )


def _with_cases(program: str, reading: Reading) -> str:
    found: ProgramCases = program_cases.unpack(reading.cases or "")
    code = f"{reading.setup or ''}\n{program}"
    values = {
        "PROGRAM": code,
        "CASES": found.cases,
        "FUNCTION": found.function,
        "SECONDS": CASE_LIMIT_S,
    }
    return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + _TRY_CASES
