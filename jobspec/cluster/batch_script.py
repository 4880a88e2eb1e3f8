"""The batch script of workers: `slurm/worker.sbatch` with a site's options added to its head.

The script in the repository is the template. It also runs as it is, where sbatch needs no options.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import shlex
from pathlib import Path

from jobspec.cluster.site import Site
from jobspec.storage.layout import RootPaths

_TEMPLATE = "worker.sbatch"
_MARK = "#SBATCH "


def render(site: Site, site_file: Path, *, version: str = "") -> str:
    """Render the script with all options and paths that sbatch and the node need.

    Args:
        site: the site's settings.
        site_file: the file that holds them, as an absolute path; the script reads it on the node.
        version: of this code; the script refuses an older image.
    """
    lines = template().splitlines()
    options = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    first = next(index for index, line in enumerate(lines) if line.startswith(_MARK))
    body = [line for line in lines[first:] if not line.startswith(_MARK)]
    own = _options(site)
    replaced = {option.partition("=")[0] for option in own}
    kept = [option for option in options if option.partition("=")[0] not in replaced]
    exports = [f"export JOBSPEC_SITE_ENV={shlex.quote(str(site_file))}"]
    if version:
        exports.append(f"export JOBSPEC_VERSION={shlex.quote(version)}")
    head = [f"{_MARK}{option}" for option in [*kept, *own]]
    return "\n".join([*lines[:first], *head, *exports, *body]) + "\n"


def template() -> str:
    """The script as it is installed with this package."""
    return importlib.resources.files("jobspec.cluster").joinpath(_TEMPLATE).read_text()


def job_name(root: str) -> str:
    """The name of the batch jobs of a root, by which `jobspec scale` counts them."""
    return f"jobspec-{hashlib.sha256(root.encode()).hexdigest()[:8]}"


def _options(site: Site) -> list[str]:
    """The site's settings as options of sbatch, each in one form only."""
    options = {
        "job-name": job_name(site.root),
        "output": str(RootPaths(Path(site.root)).batch_logs / "%A_%a.log"),
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
    return given + [_quoted_option(option) for option in shlex.split(site.sbatch_options)]


def _quoted(value: str) -> str:
    """Quote a value that holds blanks: sbatch splits the lines of the head as a shell does."""
    return f'"{value}"' if any(each.isspace() for each in value) else value


def _quoted_option(option: str) -> str:
    name, equals, value = option.partition("=")
    return name + equals + _quoted(value)


def _gpus(site: Site) -> str:
    if site.gpus == "0":
        return ""
    return f"{site.gpu_type}:{site.gpus}" if site.gpu_type else site.gpus
