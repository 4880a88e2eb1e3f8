"""What the command line's tests share: the real command in a subprocess, and queues to look at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from jobspec.queue.claim import Claim
from jobspec.queue.job import Job
from jobspec.queue.queue import Queue
from jobspec.records import base as records
from jobspec.records.attempt import ClaimRecord, End, PhaseTime, Progress, Result
from jobspec.records.base import Reason
from jobspec.records.worker import WorkerRecord
from jobspec.spec import builder
from jobspec.spec.schema import JobSpec
from jobspec.storage import fs
from tests.support.json_docs import undocumented

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
WORKER = "gpu012-4711-3-0123456789abcdef"


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what would change a command's answer."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("JOBSPEC_", "COLUMNS"))}
    ours |= {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "error", "NO_COLOR": "1"}
    return ours | extra


@contextlib.contextmanager
def ctrl_c_heard() -> Iterator[None]:
    """What starts in here hears SIGINT: a shell's background ignores it, and children inherit."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def jobspec(
    *args: str | Path, cwd: Path | None = None, code: int | None = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command; its exit code must be `code` (None: any)."""
    command = [sys.executable, "-m", "jobspec.cli", *map(str, args)]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**env), capture_output=True, text=True, check=False
    )
    assert code is None or done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    if "--json" in args and done.stdout:
        wrong = undocumented([str(arg) for arg in args], json.loads(done.stdout))
        assert wrong is None, f"not as in docs/json.md: {wrong}"
    return done


def jobspec_json(*args: str | Path, cwd: Path | None = None, code: int = 0, **env: str) -> Any:
    """The JSON object that a command prints with --json."""
    return json.loads(jobspec(*args, "--json", cwd=cwd, code=code, **env).stdout)


class Talking:
    """A command that goes on: its lines as they come, each within half a minute or never."""

    def __init__(self, *args: str | Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "jobspec.cli", *map(str, args)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Talking:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def line(self) -> str:
        stdout, lines = self._process.stdout, list[str]()
        assert stdout is not None
        reader = threading.Thread(target=lambda: lines.append(stdout.readline()))
        reader.start()
        reader.join(PATIENCE_S)
        if reader.is_alive():
            self._process.kill()
            reader.join()
            raise AssertionError("no line came")
        return lines[0]

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def end(self) -> tuple[str, str, int]:
        """What else it printed on stdout and stderr, and its exit code."""
        out, talk = self._process.communicate(timeout=PATIENCE_S)
        return out, talk, self._process.returncode


def base_spec(model: str = "Qwen/Qwen3-8B", **fields: Any) -> JobSpec:
    """A spec that trains nothing: it needs no data, and its id is the same everywhere."""
    spec = builder.build(builder.Request(models=[model], train=False))[0]
    return msgspec.structs.replace(spec, **fields)


def tuned_spec(model: str = "Qwen/Qwen3-8B", rate: float = 1e-5) -> JobSpec:
    """A spec that trains; its data's hash is filled in, as enqueue would have."""
    spec = builder.build(
        builder.Request(models=[model], learning_rates=[rate], data="/data/a.jsonl")
    )[0]
    assert spec.data is not None
    return msgspec.structs.replace(spec, data=msgspec.structs.replace(spec.data, sha256="0" * 64))


def enqueue_and_claim(queue: Queue, spec: JobSpec, worker: str = WORKER) -> Claim:
    """Enqueue a spec and claim it for a worker that beats."""
    job = queue.enqueue(spec, priority=900 + len(queue.jobs()))  # above all that waits
    claim = claim_next(queue, worker)
    assert claim.job == job.id
    return claim


def claim_next(queue: Queue, worker: str = WORKER) -> Claim:
    send_heartbeat(queue, worker, None)
    claim = queue.claim(worker)
    assert claim is not None
    send_heartbeat(queue, worker, claim.job)
    claimed = ClaimRecord(worker=worker, host=worker[:6], claimed_at="2026-11-22T10:00:00.000000Z")
    fs.publish(claim.dir.claim, records.encode(claimed))
    return claim


def send_heartbeat(queue: Queue, worker: str, job: str | None, **facts: Any) -> None:
    facts = {"host": worker[:6], "gpus": 8, "updated_at": records.utc_now(), **facts}
    shown = WorkerRecord(worker=worker, job=job, **facts)
    queue.heartbeat(worker, shown, job=job)


def report_progress(claim: Claim, done: float, **metrics: float) -> None:
    progress = Progress(
        phase="train", done=done, total=100, unit="steps", eta_s=7421.0, metrics=metrics
    )
    fs.replace(claim.dir.progress, records.encode(progress))


def ended(reason: Reason, **fields: Any) -> End:
    return End(
        reason=reason,
        worker=WORKER,
        host=WORKER[:6],
        started_at="2026-11-22T10:00:01.000000Z",
        ended_at="2026-11-22T11:01:00.000000Z",
        wall_s=3659.0,
        overhead_s=0.75,
        phases=(PhaseTime(phase="prepare", wall_s=12.0), PhaseTime(phase="train", wall_s=3600.0)),
        **fields,
    )


def succeed(queue: Queue, spec: JobSpec, metrics: dict[str, float | None]) -> Job:
    claim = enqueue_and_claim(queue, spec)
    claim.end(ended(Reason.SUCCEEDED))
    claim.finish("succeeded", Result(job=claim.job, attempt=claim.attempt, metrics=metrics))
    return queue.job(claim.job)


def fail(queue: Queue, spec: JobSpec, message: str, hint: str | None = None) -> Job:
    claim = enqueue_and_claim(queue, spec)
    claim.end(ended(Reason.FAILED, message=message, hint=hint, phase="prepare"))
    claim.finish("failed")
    return queue.job(claim.job)


def none_running(queue: Queue) -> None:
    """A job in every state but that one; the one that is pending came back."""
    succeed(queue, base_spec(notes="1"), scores(0.93, 0.7))
    fail(queue, base_spec("allenai/Olmo-3-7B-Think"), "row 17: no final turn", "look at row 17")
    queue.cancel(queue.enqueue(base_spec(notes="2")).id)
    claim = enqueue_and_claim(queue, base_spec(notes="3"))
    claim.end(ended(Reason.WALLTIME))
    claim.requeue("walltime")


def scores(math: float, aime: float, truncated: float = 0.01) -> dict[str, float | None]:
    """The keys of section 10 for two benchmarks, as the eval phase writes them."""
    return {
        "bench/minerva_math500/math_verify": math,
        "bench/minerva_math500/stderr": 0.008,
        "bench/minerva_math500/sampling_stderr": None,
        "bench/aime24/avg_at_32": aime,
        "bench/aime24/stderr": 0.061,
        "bench/aime24/sampling_stderr": 0.012,
        "bench/aime24/truncated_frac": truncated,
        "bench/aime24/mean_response_tokens": 9120.5,
        "bench/aime24/pass_at_32": 0.9,
        "bench/aime24/maj_at_32": 0.8,
    }
