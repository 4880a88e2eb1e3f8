"""Fills a root's cache on a node with network access.

    python -m worker.fetch [--json] ROOT SPEC…

Downloads each spec's model, our benchmarks, and the data of lm-eval's tasks to the directories that
workers without network read. Existing files are not downloaded again. Prints a line for each item,
with `--json` an object, and errors as `{"error": {...}}`. Exits with 3 if a download fails.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from jobspec.benchmarks import question_file as files
from jobspec.benchmarks import registry
from jobspec.errors import JobspecError, ModelError
from jobspec.queue import root as roots
from jobspec.records import base as records
from jobspec.records import exit_codes
from jobspec.records.answers import ErrorDetails, Fetched
from jobspec.spec import parsing
from jobspec.spec.schema import JobSpec, ModelSpec
from jobspec.storage.layout import RootPaths
from worker import benchmark_download
from worker.lm_eval_tasks import nltk_data
from worker.program import run_program

# Other formats than safetensors may be pickles. They are never read, so they are not fetched.
_WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "tokenizer*", "*.tiktoken")
_REFUSED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.gguf", "*.onnx")
_CODE = "*.py"


def fetch(root: RootPaths, spec: JobSpec) -> Iterator[str]:
    """Fetch everything that a job of this spec reads; yields a line for each item.

    Raises:
        JobspecError: a download failed. Items fetched before it are kept.
    """
    yield _fetch_model(root, spec.model)
    if spec.eval is None:
        return
    cache = root.cache / "benchmarks"
    where = files.directories(spec.eval.benchmark_dir, cache)
    own = [name for name in spec.eval.benchmarks if files.is_ours(name, where)]
    for name in own:
        loaded = benchmark_download.load(name, where, cache)
        yield f"{name}: {len(loaded.questions)} questions in {loaded.file}"
    if any(_checks_instructions(name) for name in own):
        yield nltk_data.fetch(root.nltk_data)
    native = [name for name in spec.eval.benchmarks if name not in own]
    if native:
        from worker.lm_eval_tasks.task_loading import TaskLibrary

        library = TaskLibrary(spec.eval, where)
        if any(map(library.splits_sentences, native)):
            yield nltk_data.fetch(root.nltk_data)
        with nltk_data.readable(root.nltk_data):
            for name in native:
                library.load(name)
        yield f"{', '.join(native)}: lm-eval's data in {root.datasets}"


def _checks_instructions(name: str) -> bool:
    benchmark = registry.get(name)
    return benchmark is not None and benchmark.checks_instructions


def _fetch_model(root: RootPaths, model: ModelSpec) -> str:
    if Path(model.name).expanduser().is_dir():
        return f"{model.name}: a directory on this machine"
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    wanted = [*_WANTED, *([_CODE] if model.trust_remote_code else [])]
    try:
        directory = huggingface_hub.snapshot_download(
            model.name,
            revision=model.revision,
            cache_dir=root.hub,
            allow_patterns=wanted,
            ignore_patterns=list(_REFUSED),
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise ModelError(
            f"`{model.name}` can't be downloaded: {str(error).strip().splitlines()[0]}",
            place="$.model.name",
            hint="check the name and the network of this node; gated models need $HF_TOKEN",
        ) from error
    if not any(Path(directory).rglob("*.safetensors")):
        raise ModelError(
            f"`{model.name}` has no safetensors weights",
            place="$.model.name",
            hint="other formats can contain code and are never read; convert them to safetensors",
        )
    return f"{model.name}: {directory}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.fetch", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("root", type=Path)
    parser.add_argument("specs", nargs="+", type=Path)
    args = parser.parse_args()
    root = RootPaths(args.root.absolute())
    roots.restrict_umask()
    # The libraries read these when they are imported. Phases of a worker get the same directories.
    os.environ |= {
        "HF_HOME": str(root.cache),
        "HF_HUB_CACHE": str(root.hub),
        "HF_DATASETS_CACHE": str(root.datasets),
    }
    nltk_data.look_in(root.nltk_data)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        os.environ.pop(name, None)
    # Try every spec, even if one before it failed.
    fetched = [_fetch_one(root, path, as_json=args.json) for path in args.specs]
    return 0 if all(fetched) else exit_codes.REFUSED


def _fetch_one(root: RootPaths, path: Path, *, as_json: bool) -> bool:
    try:
        for line in fetch(root, parsing.load(path)):
            if as_json:
                _answer(Fetched(file=str(path), fetched=line))
            else:
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
    except JobspecError as error:
        if as_json:
            details = ErrorDetails.of(error)
            _answer(Fetched(error=msgspec.structs.replace(details, file=error.file or str(path))))
        else:
            hint = f"\nhint: {error.hint}" if error.hint else ""
            sys.stderr.write(f"fetch: {error}{hint}\n")
        return False
    return True


def _answer(answer: Fetched) -> None:
    sys.stdout.write(records.encode_line(answer).decode())
    sys.stdout.flush()


if __name__ == "__main__":
    run_program(main)
