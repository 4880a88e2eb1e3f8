"""Batch scripts for one site: `slurm/worker.sbatch` with the site's options in its head.

The script in the repository is the template, and runs as it is wherever sbatch needs no options.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import shlex
from pathlib import Path

from jobspec.cluster.site import Site

WORKER = "worker.sbatch"
MULTINODE = "worker-multinode.sbatch"
_MARK = "#SBATCH "
_MULTI = "# One worker over two nodes, all of whose GPUs train together."


def render(site: Site, site_file: Path, *, version: str = "", script: str = WORKER) -> str:
    """The script with everything that `sbatch` and the node need to know.

    Args:
        site: the settings.
        site_file: where they are, absolute: read again on the node.
        version: the code's, which the image must not be older than.
        script: which of the scripts.
    """
    lines = template(script).splitlines()
    options = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    first = next(index for index, line in enumerate(lines) if line.startswith(_MARK))
    body = [line for line in lines[first:] if not line.startswith(_MARK)]
    own = _options(site)
    named = {option.partition("=")[0] for option in own}
    head = [option for option in options if option.partition("=")[0] not in named]
    facts = [f"export JOBSPEC_SITE_ENV={shlex.quote(str(site_file))}"]
    if version:
        facts.append(f"export JOBSPEC_VERSION={shlex.quote(version)}")
    sbatch = [f"{_MARK}{option}" for option in [*head, *own]]
    return "\n".join([*lines[:first], *sbatch, *facts, *body]) + "\n"


def template(script: str) -> str:
    """The text of one of our scripts, as installed with this package.

    The one for several nodes is the other with more nodes: `slurm/` holds it as it comes out here.
    """
    text = importlib.resources.files("jobspec.cluster").joinpath(WORKER).read_text()
    if script == WORKER:
        return text
    text = text.replace("# One worker on one node (worker-multinode.sbatch: on two).", _MULTI)
    text = text.replace("jobspec submit --array 0-3", "jobspec submit --nodes 2 --array 0-3")
    text = text.replace(f"slurm/{WORKER}", f"slurm/{MULTINODE}")
    return text.replace("--nodes=1\n", "--nodes=2\n").replace(
        "--ntasks=1\n", "--ntasks-per-node=1\n"
    )


def job_name(root: str) -> str:
    """The name that Slurm's jobs for this root go by: how `scale` counts its own."""
    return f"jobspec-{hashlib.sha256(root.encode()).hexdigest()[:8]}"


def log_dir(root: str) -> Path:
    """Where the elements' logs go."""
    return Path(root) / "slurm"


def _options(site: Site) -> list[str]:
    """The site's settings as options of sbatch, one form each."""
    options = {
        "job-name": job_name(site.root),
        "output": str(log_dir(site.root) / "%A_%a.log"),
        "account": site.account,
        "partition": site.partition,
        "qos": site.qos,
        "constraint": site.constraint,
        "time": site.time,
        "signal": f"B:USR2@{site.signal_s}",
        "gpus-per-node": _gpus(site),
        "cpus-per-task": site.cpus,
        "mem": site.mem,
    }
    given = [f"--{name}={_quoted(value)}" for name, value in options.items() if value]
    return given + [_quoted_option(word) for word in shlex.split(site.sbatch_options)]


def _quoted(value: str) -> str:
    """sbatch splits the head's lines into words, and knows quotes."""
    return f'"{value}"' if any(each.isspace() for each in value) else value


def _quoted_option(option: str) -> str:
    name, equals, value = option.partition("=")
    return name + equals + _quoted(value)


def _gpus(site: Site) -> str:
    if site.gpus == "0":
        return ""
    return f"{site.gpu_type}:{site.gpus}" if site.gpu_type else site.gpus
