"""`jobspec serve`: serve the report page live."""

from __future__ import annotations

import signal
import socket

import click

from jobspec.cli.common import (
    chosen_jobs,
    common,
    jobs_argument,
    open_queue,
    state_option,
    wants_json,
)
from jobspec.cli.output import emit, say
from jobspec.errors import JobspecError


@click.command()
@jobs_argument(required=False)
@state_option
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="TCP port.  [default: any free port]"
)
@click.option(
    "--interval",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="Seconds between reads of the files.",
)
@common
def serve(jobs: tuple[str, ...], states: tuple[str, ...], port: int, interval: float) -> None:
    """Serve the report live on 127.0.0.1 until Ctrl-C, and print its secret address.

    \b
    jobspec serve
    jobspec serve 'qwen3-*' --port 8901
    ssh -L 8901:127.0.0.1:8901 LOGIN-NODE    on your own machine

    Open the address in a browser. The page is read-only. Anyone who has the address can see it;
    without the token in the address the server answers nothing.
    """
    from jobspec.dashboard.live import LiveRuns
    from jobspec.dashboard.server import Server

    queue = open_queue(write=False)
    chosen_jobs(queue, jobs, states)  # report a bad selection before serving
    runs = LiveRuns(queue, lambda: chosen_jobs(queue, jobs, states), interval)
    try:
        server = Server(runs, port)
    except OSError as error:
        hint = "choose another with --port, or omit it to use any free port"
        raise JobspecError(f"port `{port}`: {error.strerror}", hint=hint) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if wants_json():
        emit({"address": server.address, "port": server.server_address[1]})
    else:
        click.echo(server.address)
        free = server.server_address[1]
        say(f"from your own machine: ssh -L {free}:127.0.0.1:{free} {socket.gethostname()}")
        say("press Ctrl-C to stop")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        runs.close()
        server.server_close()
