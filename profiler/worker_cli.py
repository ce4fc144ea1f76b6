"""The command `gharial worker`: measure on this machine what a server's jobs ask for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from latency_model import console
from latency_model.errors import InputError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command(
    epilog="Example: gharial worker --server http://localhost:8765 --device cuda:0 --runtime tensorrt"
)
def worker(
    server: Annotated[str, typer.Option(metavar="URL", help="The server that `gharial serve` runs.")],
    device: Annotated[str, typer.Option(help="What to time on: cpu, or a GPU as cuda:0.")] = "cpu",
    runtime: Annotated[
        str, typer.Option(help="onnxruntime, torch; on CUDA also onnxruntime-tensorrt and tensorrt.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime within an operator.")] = 1,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="A setting of the runtime, repeatable, as in `gharial profile`.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="GHARIAL_TOKEN",
            help="A token with the scope work; better in GHARIAL_TOKEN, where no list of processes shows it.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="What the server calls this worker.", show_default="this machine and the device"),
    ] = None,
    outbox: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where rows are until the server has them.",
            show_default="in the user's data",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="End when no job waits.")] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1.0, help="After so long on one configuration its process is replaced."
        ),
    ] = 300.0,
    stretch: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long to measure before rows are sent.")
    ] = 60.0,
) -> None:
    """Take jobs from a server, measure them on one device, and bring the rows back, until stopped.

    SIGTERM and Ctrl-C let it finish the configuration at hand, send what there is, and give its job back. Killed
    at any moment it loses nothing: start it again with the same options.
    """
    from profiler.cli_plan import option_values
    from profiler.remote import RemoteWorker, Server
    from profiler.spec import device_specs

    if device == "cuda:all":
        raise InputError("a worker has one device; start one for each GPU, as --device cuda:0")
    (spec,) = device_specs(runtime, [device], threads=threads, options=option_values(options or ()))
    called = name or f"{socket.gethostname()} {device}"
    folder = outbox or _folder(server.rstrip("/"), json.dumps(spec.to_json(), sort_keys=True))
    with _stopped_by_signals() as stop, Server(server, worker=called, token=token) as opened:
        done = RemoteWorker(
            opened,
            spec,
            folder,
            stop=stop,
            once=once,
            time_limit_s=time_limit,
            stretch_s=stretch,
            tell=lambda text: console.err.print(text, highlight=False, soft_wrap=True),
        ).run()
    console.err.print(f"{done} job{'' if done == 1 else 's'} done", highlight=False)


def _folder(server: str, spec: str) -> Path:
    """Return the folder of one server and one back end: the same command finds its rows again."""
    given = os.environ.get("XDG_DATA_HOME", "")
    base = Path(given) if given else Path.home() / ".local" / "share"
    digest = hashlib.sha256(f"{server}\n{spec}".encode()).hexdigest()[:12]
    return base / "gharial" / "outbox" / digest


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Yield what SIGTERM and Ctrl-C set; the second of them ends the process as if nobody had asked."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where Python lets no handler be set
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(_number: int, _frame: object) -> None:
        stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
