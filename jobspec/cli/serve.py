"""`jobspec serve`."""

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
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="[default: a free one]")
@click.option(
    "--interval", type=click.FloatRange(0.1), default=5.0, help="Between looks, s. [default: 5]"
)
@common
def serve(jobs: tuple[str, ...], states: tuple[str, ...], port: int, interval: float) -> None:
    """Serve the report live on this machine's 127.0.0.1, until Ctrl-C; prints its secret address.

    \b
    jobspec serve
    jobspec serve 'qwen3-*' --port 8901
    ssh -L 8901:127.0.0.1:8901 LOGIN-NODE      on your own machine, then open the address there

    Read-only. Whoever has the address sees the page; without its token the port tells nothing.
    """
    from jobspec.dashboard import page as html
    from jobspec.dashboard.server import Content, Server

    queue = open_queue()

    def page() -> str:
        return html.render(queue, chosen_jobs(queue, jobs, states), live=True)

    def content() -> str:
        return html.content(queue, chosen_jobs(queue, jobs, states))

    page()  # what is wrong with the root, or not installed, is said here and now
    try:
        server = Server(page, Content(content, interval), port)
    except OSError as error:
        hint = "name another with --port, or none: a free one is found"
        raise JobspecError(f"port `{port}`: {error.strerror}", hint=hint) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if wants_json():
        emit({"address": server.address, "port": server.server_address[1]})
    else:
        click.echo(server.address)
        free = server.server_address[1]
        say(f"from your own machine: ssh -L {free}:127.0.0.1:{free} {socket.gethostname()}")
        say("Ctrl-C ends it")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.content.close()
        server.server_close()
