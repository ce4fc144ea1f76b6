"""The command `gharial profile`: time every configuration of some networks' operators into a table."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from latency_model.errors import InputError
from latency_model.ops import Config
from latency_model.shapes import PRECISIONS, ConvShape

if TYPE_CHECKING:
    from profiler.adaptive import AdaptivePlan
    from profiler.workers import Workers

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

_BATCH = ("--batch", "-b")
_PRECISION = "--precision"


class _SeveralValues(TyperCommand):
    """Lets `--batch 1 8` stand for `--batch 1 --batch 8`, and so with precisions: no model is called like these."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, spread, inside = list(args), [], ""
        for position, word in enumerate(given):
            if word == "--":
                spread += given[position:]
                break
            if inside and _is_value(word, inside) and spread[-1] != inside:
                spread.append(inside)
            elif word.startswith("-") or not _is_value(word, inside):
                inside = word if word in (*_BATCH, _PRECISION) else ""
            spread.append(word)
        return super().parse_args(ctx, spread)


def _is_value(word: str, option: str) -> bool:
    return word in PRECISIONS if option == _PRECISION else word.isdecimal()


@app.command(
    cls=_SeveralValues,
    epilog="Example: gharial profile resnet20 --batch 1 8 --step 8 --out tables/my_cpu.parquet",
)
def profile(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL",
            help="A name like resnet20, torchvision:NAME, timm:NAME, package.module:callable, or a file.onnx.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="TABLE", help="Where the table goes (.parquet); rows that it has are not measured again."
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="A setting of the runtime, repeatable: search=heuristic, method=graph-increment, builds=1.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="What to time on: cpu, cuda:0, several GPUs by repeating the option, or cuda:all.",
            show_default="cpu",
        ),
    ] = None,
    runtime: Annotated[
        str,
        typer.Option(help="onnxruntime, torch; on CUDA also onnxruntime-tensorrt and tensorrt."),
    ] = "onnxruntime",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help=f"One or several of {', '.join(PRECISIONS)}.", show_default="fp32, of an ONNX file its own"
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            *_BATCH,
            min=1,
            help="One or several, as --batch 1 8.",
            show_default="1, or what an ONNX file fixes",
        ),
    ] = None,
    step: Annotated[
        int, typer.Option(min=1, help="Distance of the channel counts of the grids; 1 takes every integer.")
    ] = 8,
    channels: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTS",
            help="These channel counts instead of a step, like 8,16,24 or 8:64:8 (from:to:step).",
        ),
    ] = None,
    ops: Annotated[
        bool, typer.Option("--ops/--no-ops", help="Time the operators beside the convolutions too.")
    ] = True,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive", help="Measure a part of the points, where the steps are; estimate the rest."
        ),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="Part of the points that --adaptive measures at most.", show_default="0.05"),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime within an operator.")] = 1,
    networks: Annotated[bool, typer.Option(help="Time the whole networks too.")] = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what the table records as failed.")
    ] = False,
    time_limit: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1.0, help="After so long on one configuration its worker is replaced."
        ),
    ] = 300.0,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Measure on the nodes of this Ray cluster; auto finds one."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many workers on the cluster.", show_default="one for each GPU, or node on CPUs"
        ),
    ] = None,
    in_process: Annotated[
        bool, typer.Option("--in-process", hidden=True, help="Measure in this process, to debug a back end.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many configurations and how long.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Time every convolution and other operator of MODEL..., at the channel counts of a grid, on a device.

    Stopped at any moment, the same command goes on where it was: every finished row is on the disk.
    """
    from profiler.backends import require_precision
    from profiler.cli_plan import channel_counts, load, option_values, whole_networks
    from profiler.cli_report import dry_run as report_dry_run
    from profiler.cli_report import summary
    from profiler.cli_run import measure, measure_adaptively
    from profiler.plan import plan

    if budget is not None and not adaptive:
        raise InputError("--budget is of an adaptive plan; give --adaptive as well")
    if workers is not None and cluster is None:
        raise InputError(
            "--workers is for a --cluster; on this machine there is one worker for each --device"
        )
    for name in precision or ():
        if name not in PRECISIONS:
            raise InputError(f"unknown precision {name!r}; known are {', '.join(PRECISIONS)}")
    counts = channel_counts(channels) if channels is not None else None
    start = time.perf_counter()
    with (
        _ended_by_sigterm(),
        _open(
            runtime,
            device or ["cpu"],
            threads=threads,
            options=option_values(options or ()),
            cluster=cluster,
            workers=workers,
            time_limit_s=time_limit,
            in_process=in_process,
        ) as opened,
    ):
        described = opened.description
        for name in precision or ():
            require_precision(described, name)
        loaded = load(
            models,
            batches=sorted(set(batch)) if batch else [None],
            precisions=list(dict.fromkeys(precision)) if precision else [None],
        )
        ops, reorders = ops and described.times_ops, described.reorders
        shapes = plan([cost for _, cost in loaded], step=step, channels=counts, ops=ops, reorders=reorders)
        for needed in sorted({shape.precision for shape in shapes}):
            require_precision(described, needed)
        rounds = _adaptive(shapes, budget) if adaptive else None
        if dry_run:
            report_dry_run(
                described.environment, shapes, out, passes=described.passes, plan=rounds, json=json
            )
            return
        notes: list[str] = []
        whole = whole_networks(loaded, notes, ops=ops, reorders=reorders) if networks else []
        if rounds is None:
            table = measure(opened, shapes, whole, out, notes, quiet=json, retry_failed=retry_failed)
        else:
            others = [shape for shape in shapes if not isinstance(shape, ConvShape)]
            table, shapes = measure_adaptively(
                opened, rounds, others, whole, out, notes, quiet=json, retry_failed=retry_failed
            )
    summary(table, shapes, out, notes, seconds=time.perf_counter() - start, json=json)


@contextlib.contextmanager
def _open(
    runtime: str,
    devices: list[str],
    *,
    threads: int,
    options: Mapping[str, Any],
    cluster: str | None,
    workers: int | None,
    time_limit_s: float,
    in_process: bool,
) -> Iterator[Workers]:
    from profiler.spec import device_specs
    from profiler.workers import open_workers
    from profiler.workers.inprocess import InProcess

    specs = device_specs(runtime, devices, threads=threads, options=options)
    if not in_process:
        with open_workers(specs, cluster=cluster, count=workers, time_limit_s=time_limit_s) as opened:
            yield opened
        return
    if len(specs) > 1 or cluster is not None:
        raise InputError("--in-process measures on one device of this machine; leave the others out")
    with specs[0].open() as backend:
        yield InProcess(backend)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl-C does: workers stop, and the table has what was measured."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where Python lets no handler be set
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _adaptive(shapes: Sequence[Config], budget: float | None) -> AdaptivePlan:
    from profiler.adaptive import BUDGET, AdaptivePlan, site_grids

    grids = site_grids([shape for shape in shapes if isinstance(shape, ConvShape)])
    return AdaptivePlan(grids, BUDGET if budget is None else budget)
