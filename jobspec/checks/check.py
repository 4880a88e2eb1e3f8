"""What `enqueue` checks beyond the spec itself: on a login node, in seconds, without torch.

The data's hash is filled in and paths are made absolute here, before the id is computed: other
data is another experiment. The rows themselves are proved by the worker's own code, run as a
subprocess from this environment or from the image (`$JOBSPEC_WORKER_COMMAND`).
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from jobspec.benchmarks import lm_eval_names, question_file, registry
from jobspec.checks import rows as proof
from jobspec.checks.rows import RowReport
from jobspec.errors import BenchmarkError, JobspecError, ModelError, SpecError, data_changed
from jobspec.estimates.evaluation_time import Estimate, estimate
from jobspec.models.weights import refuse_pickles
from jobspec.spec import identity, parsing, rules, secrets
from jobspec.spec import schema as specs
from jobspec.spec.benchmark_settings import sampling, with_canonical_names
from jobspec.spec.schema import JobSpec
from jobspec.storage.layout import RootPaths

if TYPE_CHECKING:
    from jobspec.estimates.training_time import Training

BENCHMARK_DIR = question_file.DIRECTORY_VARIABLE
_PROMPT_TOKENS = 64  # no benchmark's prompt is shorter than this
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_FROM_HERE = "relative paths are taken from the directory you call jobspec in"
_OWN_ROWS = f"link your rows there, or name them: `jobspec new … --data FILE`; {_FROM_HERE}"
# One of these is in every model directory that has a tokenizer, of whatever kind.
_TOKENIZERS = ("tokenizer.*", "vocab.*", "*.model", "*.tiktoken", "tekken.json")


@dataclass(frozen=True)
class Checked:
    """A spec that may be enqueued: completed, with what is worth saying about it."""

    file: Path
    spec: JobSpec
    rows: RowReport | None = None
    scoring: Estimate | None = None
    training: Training | None = None
    warnings: list[str] = field(default_factory=list[str])

    @property
    def job(self) -> str:
        """The id the job will have."""
        return identity.job_id(self.spec.name, identity.canonical(self.spec))


def check(
    file: Path, root: Path, *, rows: bool = True, tell: Callable[[str], None] = lambda _: None
) -> Checked:
    """Check one spec file as `enqueue` does.

    Args:
        root: where the model may have been fetched to, and where prepared rows are kept.
        rows: prove the rows in a subprocess of the worker's; else only their JSON is read.
        tell: is told before what may take long.

    Raises:
        JobspecError: with file, place and hint, at the first thing that is wrong.
    """
    return check_spec(parsing.load(file), file, root, rows=rows, tell=tell)


def check_spec(
    spec: JobSpec,
    file: Path,
    root: Path,
    *,
    rows: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> Checked:
    """Check a spec as `check` does one from a file; errors name `file`."""
    secrets.refuse(spec, file=file)
    spec = complete(spec, file)
    warnings = [*_check_model(spec, root, file), *_check_benchmarks(spec, root, file)]
    report = None
    if spec.train is not None and rows:
        tell(f"{file}: rendering and verifying the rows")
        report = _prove(spec, root, file)
        warnings += _check_thinking(spec, report, file)
    elif spec.data is not None:
        proof.check_lines(Path(spec.data.path))
    return Checked(file, spec, report, estimate(spec, root), warnings=warnings)


def _prove(spec: JobSpec, root: Path, file: Path) -> RowReport:
    try:
        return proof.check_rows(spec, root)
    except JobspecError as error:
        token = spec.eval.think_end_token if spec.eval is not None else None
        hint = error.hint
        if token != specs.EvalSpec().think_end_token:
            asks = f"$.eval.think_end_token is `{token}`: is it what ends thinking in these rows?"
            hint = f"{hint}; {asks}" if hint else asks
        raise type(error)(
            error.message, hint=hint, file=error.file or file, place=error.place
        ) from error


def _check_thinking(spec: JobSpec, report: RowReport, file: Path) -> Iterator[str]:
    """The text that ends thinking must be one that rows or template have, or it ends nothing."""
    token = spec.eval.think_end_token if spec.eval is not None else None
    if token is not None and not report.rows_with_think_end_token + report.think_end_in_template:
        if token != specs.EvalSpec().think_end_token:
            raise SpecError(
                f"`{token}` occurs neither in the rendered rows nor in the chat template",
                file=file,
                place="$.eval.think_end_token",
                hint="give the text that ends a think block, or null",
            )
        yield f"no row has `{token}`: the model will be trained to answer without thinking"
    elif token is not None and report.rows_without_thinking:
        some = f"{report.rows_without_thinking} of {report.rows_train + report.rows_eval}"
        yield f"{some} rows have no thinking"


def complete(spec: JobSpec, file: Path | None = None) -> JobSpec:
    """The spec with its data's hash filled in, every path absolute, every benchmark's own name."""
    spec = with_canonical_names(spec)
    rules.check(spec, file=file)
    changes: dict[str, Any] = {}
    model = {}
    if is_path(spec.model.name):
        model["name"] = _absolute(spec.model.name)
    if spec.model.chat_template is not None:
        template = _absolute(spec.model.chat_template)
        _readable(Path(template), "$.model.chat_template", file, _FROM_HERE)
        model["chat_template"] = template
    changes["model"] = msgspec.structs.replace(spec.model, **model)
    if spec.data is not None:
        path = Path(_absolute(spec.data.path))
        sha256 = _hash(path, spec.data.sha256, file)
        changes["data"] = msgspec.structs.replace(spec.data, path=str(path), sha256=sha256)
    if spec.eval is not None and spec.eval.benchmark_dir is not None:
        place = _absolute(spec.eval.benchmark_dir)
        changes["eval"] = msgspec.structs.replace(spec.eval, benchmark_dir=place)
    return msgspec.structs.replace(spec, **changes)


def is_path(model: str) -> bool:
    """Whether a model's name means a directory here rather than a name on the hub."""
    if model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        return True  # a hub name has one slash at most
    return Path(model).is_dir()


def _absolute(path: str) -> str:
    return os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - symlinks are kept: they move


def _readable(path: Path, place: str, file: Path | None, hint: str) -> None:
    try:
        with path.open("rb") as opened:
            first = opened.read(1)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise SpecError(
            f"`{path}` {'does not exist' if missing else f'can not be read: {error.strerror}'}",
            file=file,
            place=place,
            hint=hint,
        ) from error
    if not first:
        raise SpecError(f"`{path}` is empty", file=file, place=place, hint="is it still written?")


def _hash(path: Path, expected: str | None, file: Path | None) -> str:
    _readable(path, "$.data.path", file, _OWN_ROWS)
    with path.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if expected is not None and expected != found:
        raise SpecError(
            f"`{path}` {data_changed(found, expected)}",
            file=file,
            place="$.data.sha256",
            hint="put the old data back, or set sha256 to null: other data, other experiment",
        )
    return found


# --- the model


def _check_model(spec: JobSpec, root: Path, file: Path) -> Iterator[str]:
    name = spec.model.name
    if spec.model.trust_remote_code:
        pin = "" if spec.model.revision or is_path(name) else "; `model.revision` would pin it"
        yield f"model `{name}` brings code of its own, which will run on every worker{pin}"
    _check_hub_name(name, file)
    config = Path(name) / "config.json" if is_path(name) else fetched_config(name, root)
    if config is None:
        yield f"model `{name}` is not in the root's cache: `jobspec fetch SPEC…` brings it there"
        return
    _check_heads(spec, config, file)
    _check_tokenizer(config.parent, file)
    refuse_pickles(config.parent, file=file)
    context = _context(config, file)
    if context is None:
        yield f"{config}: says nothing of its context length, so it was not checked"
    for place, needed, what in _needs(spec):
        if context is not None and needed > context:
            raise SpecError(
                f"`{what}` does not fit the model's context of {context} tokens",
                file=file,
                place=place,
                hint=f"{config} says how long its sequences may be: ask for less",
            )


def _check_hub_name(name: str, file: Path) -> None:
    if is_path(name) or _HUB_NAME.fullmatch(name):
        return
    raise ModelError(
        f"`{name[:80]}` is neither a directory nor a name on the hub",
        file=file,
        place="$.model.name",
        hint="hub names are `owner/model`; relative paths are taken from where you call jobspec",
    )


def _check_heads(spec: JobSpec, config: Path, file: Path) -> None:
    """Sequence parallelism deals a layer's heads to the devices: they must come out even."""
    degree = spec.train.sequence_parallel if spec.train is not None else 1
    heads, shared = _read_config(config, file).heads
    if heads is None or shared is None:
        return
    if heads % degree or (shared % degree and degree % shared):
        raise SpecError(
            f"`{degree}` devices can't share {heads} attention heads with {shared} of keys evenly",
            file=file,
            place="$.train.sequence_parallel",
            hint=f"a divisor of {heads} that is a divisor or a multiple of {shared} can",
        )


def _check_tokenizer(directory: Path, file: Path) -> None:
    if not any(path for pattern in _TOKENIZERS for path in directory.glob(pattern)):
        raise ModelError(
            f"`{directory}` has no tokenizer",
            file=file,
            place="$.model.name",
            hint="copy the tokenizer files of the model it was tuned from beside the weights",
        )


def _needs(spec: JobSpec) -> Iterator[tuple[str, int, str]]:
    """(place, tokens needed, what) of everything that must fit the context."""
    if spec.train is not None:
        yield "$.train.max_length", spec.train.max_length, f"max_length {spec.train.max_length}"
    if spec.eval is not None:
        for name in spec.eval.benchmarks:
            tokens = sampling(spec.eval, name)["max_gen_toks"]
            what = f"max_gen_toks {tokens} (of {name}) and a prompt"
            yield "$.eval.max_gen_toks", tokens + _PROMPT_TOKENS, what


def fetched_config(name: str, root: Path) -> Path | None:
    """The config of a hub model that was fetched into the root's cache."""
    folder = RootPaths(root).hub / f"models--{name.replace('/', '--')}" / "snapshots"
    return next(folder.glob("*/config.json"), None)


class _Rope(msgspec.Struct):
    original_max_position_embeddings: float | None = None
    factor: float | None = None


class _Config(msgspec.Struct):
    """Of a model's config.json, what says how long its sequences may be and how it is cut."""

    max_position_embeddings: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    text_config: _Config | None = None

    @property
    def heads(self) -> tuple[int | None, int | None]:
        """Attention heads of queries, and of keys and values; None where config is silent."""
        return self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads


def _context(path: Path, file: Path) -> int | None:
    """The longest sequence a model takes, stretched RoPE included; None where config is silent."""
    config = _read_config(path, file)
    rope = config.rope_scaling or config.rope_parameters or _Rope()
    if config.max_position_embeddings is None:
        return None
    stretched = (rope.original_max_position_embeddings or 0) * (rope.factor or 0)
    return max(config.max_position_embeddings, int(stretched))


def _read_config(path: Path, file: Path) -> _Config:
    """A model's config, that of its text part where it has several. Raises ModelError."""
    try:
        config = msgspec.json.decode(path.read_bytes(), type=_Config)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(
            f"`{path.parent}` is no model directory: {_why(error, path)}",
            file=file,
            place="$.model.name",
            hint="give a directory with config.json, weights and tokenizer, or a hub name",
        ) from error
    return config.text_config or config


def _why(error: Exception, config: Path) -> str:
    if isinstance(error, OSError):
        missing = config if config.parent.is_dir() else config.parent
        return (
            f"{missing.name} does not exist" if isinstance(error, FileNotFoundError) else str(error)
        )
    return f"{config.name} is not valid JSON"


# --- benchmarks


def _check_benchmarks(spec: JobSpec, root: Path, file: Path) -> Iterator[str]:
    """Ours must be readable where they are files; other names must be lm-eval's tasks."""
    if spec.eval is None:
        return
    where = question_file.directories(spec.eval.benchmark_dir, RootPaths(root).cache / "benchmarks")
    for directory in where[:-1]:
        if not directory.is_dir():
            raise BenchmarkError(
                f"the benchmark directory `{directory}` does not exist",
                file=file,
                place="$.eval.benchmark_dir" if spec.eval.benchmark_dir else BENCHMARK_DIR,
                hint="it should hold a JSONL file for each benchmark",
            )
    tasks = {name for directory in where for name in lm_eval_names.in_directory(directory)}
    files = {name: _find(name, where) for name in spec.eval.benchmarks}
    for name, path in files.items():
        if path is not None and (benchmark := registry.get(name)) is not None:
            question_file.read(benchmark, path)
    yield from _remarks_on(spec.eval, files, where)
    unread = [name for name, path in files.items() if path is None]
    unknown = [name for name in unread if not _is_downloadable(name) and name not in tasks]
    yield from _look_up(unknown, spec.eval.benchmarks, file)


def _find(name: str, where: Sequence[Path]) -> Path | None:
    """The file of a benchmark of ours, if one of the directories has it."""
    benchmark = registry.get(name)
    return None if benchmark is None else question_file.find(benchmark, where)


def _is_downloadable(name: str) -> bool:
    benchmark = registry.get(name)
    return benchmark is not None and benchmark.dataset is not None


def _remarks_on(
    evaluation: specs.EvalSpec, files: Mapping[str, Path | None], where: Sequence[Path]
) -> Iterator[str]:
    """What holds for this machine and may not hold for the workers."""
    given = None if evaluation.benchmark_dir else os.environ.get(BENCHMARK_DIR)
    here = [name for name, path in files.items() if given and path and path.parent == where[0]]
    if here:
        yield f"{', '.join(here)}: read from ${BENCHMARK_DIR}, which workers must be given too"
    missing = [name for name, path in files.items() if path is None and _is_downloadable(name)]
    if missing:
        yield (
            f"{', '.join(missing)}: no file here, and workers without network can't fetch it: "
            "run `jobspec fetch SPEC…` first"
        )


def _look_up(unknown: Sequence[str], asked: Sequence[str], file: Path) -> Iterator[str]:
    known = proof.lm_eval_names() if unknown else set[str]()
    if known is None:
        yield f"lm-eval is not installed here: `{'`, `'.join(unknown)}` was not looked up"
        return
    for name in unknown:
        if name not in known:
            raise _unknown_benchmark(name, asked, known, file)


def _unknown_benchmark(
    name: str, asked: Sequence[str], known: set[str], file: Path
) -> BenchmarkError:
    ours = [benchmark.name for benchmark in registry.all_benchmarks()]
    benchmark = registry.get(name)
    place = f"$.eval.benchmarks[{list(asked).index(name)}]"
    if benchmark is not None and benchmark.name in ours:
        message, hint = f"there is no file of `{name}` here", question_file.get_it_hint(benchmark)
        return BenchmarkError(message, file=file, place=place, hint=hint)
    near = difflib.get_close_matches(name, [*ours, *sorted(known)], n=1)
    hint = f"ours are {', '.join(ours)}; or name an lm-eval task"
    if near:
        hint = f"did you mean `{near[0]}`?"
    if benchmark is not None:
        hint += f", or {question_file.get_it_hint(benchmark)}"
    return BenchmarkError(f"benchmark `{name}` is unknown", file=file, place=place, hint=hint)
