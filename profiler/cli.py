"""The command `gharial profile`: time every configuration of some networks' operators into a table."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from latency_model import console
from latency_model.errors import InputError
from latency_model.ops import Config
from latency_model.shapes import PRECISIONS, ConvShape

if TYPE_CHECKING:
    from latency_model.environment import Environment
    from latency_model.network import NetworkCost
    from latency_model.table import LatencyTable
    from latency_model.zoo import LoadedModel
    from profiler.runner import Network
    from profiler.workers import Workers

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

_BATCH = ("--batch", "-b")
_PRECISION = "--precision"
_EXPORTED = ("fp32", "tf32")  # what a network exported with 32-bit floats may be computed in
# For the estimate of a dry run only: building and warming up a configuration, runs of it, and their speed.
_SECONDS_EACH, _RUNS_EACH, _MACS_PER_SECOND = 0.03, 30, 30e9


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
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="What to time on: cpu, cuda:0, several GPUs by repeating the option, or cuda:all.",
            show_default="cpu",
        ),
    ] = None,
    runtime: Annotated[str, typer.Option(help="onnxruntime, torch, or fake (for tests).")] = "onnxruntime",
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

    if workers is not None and cluster is None:
        raise InputError(
            "--workers is for a --cluster; on this machine there is one worker for each --device"
        )
    for name in precision or ():
        if name not in PRECISIONS:
            raise InputError(f"unknown precision {name!r}; known are {', '.join(PRECISIONS)}")
    counts = _channel_counts(channels) if channels is not None else None
    start = time.perf_counter()
    with (
        _ended_by_sigterm(),
        _open(
            runtime,
            device or ["cpu"],
            threads=threads,
            cluster=cluster,
            workers=workers,
            time_limit_s=time_limit,
            in_process=in_process,
        ) as opened,
    ):
        described = opened.description
        for name in precision or ():
            require_precision(described, name)
        loaded = _load(
            models,
            batches=sorted(set(batch)) if batch else [None],
            precisions=list(dict.fromkeys(precision)) if precision else [None],
        )
        ops, reorders = ops and described.times_ops, described.reorders
        shapes = _plan([cost for _, cost in loaded], step=step, channels=counts, ops=ops, reorders=reorders)
        for needed in sorted({shape.precision for shape in shapes}):
            require_precision(described, needed)
        if dry_run:
            _dry_run(described.environment, shapes, out, json=json)
            return
        notes: list[str] = []
        whole = _networks(loaded, notes, ops=ops, reorders=reorders) if networks else []
        table = _measure(opened, shapes, whole, out, notes, quiet=json, retry_failed=retry_failed)
    _summary(table, shapes, out, notes, seconds=time.perf_counter() - start, json=json)


@contextlib.contextmanager
def _open(
    runtime: str,
    devices: list[str],
    *,
    threads: int,
    cluster: str | None,
    workers: int | None,
    time_limit_s: float,
    in_process: bool,
) -> Iterator[Workers]:
    from profiler.spec import device_specs
    from profiler.workers import open_workers
    from profiler.workers.inprocess import InProcess

    specs = device_specs(runtime, devices, threads=threads)
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


def _load(
    models: Sequence[str], *, batches: Sequence[int | None], precisions: Sequence[str | None]
) -> list[tuple[LoadedModel, NetworkCost]]:
    """Return (loaded model, its cost) for each model, batch and precision."""
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    loaded = [load_model(name) for name in models]
    return [
        (model, harvest(model, batch=batch, precision=precision))
        for model in loaded
        for batch in batches
        for precision in precisions
    ]


def _channel_counts(text: str) -> list[int]:
    """Return the counts that a text like ``8,16,32:64:16`` names, ascending, the ends of ranges included."""
    counts: set[int] = set()
    for part in text.split(","):
        numbers = part.strip().split(":")
        if len(numbers) > 3 or not all(number.isdecimal() and int(number) > 0 for number in numbers):
            raise InputError(
                f"not channel counts: {part.strip()!r} in --channels {text}; write them like 8,16,24 or 8:64:8"
            )
        first, last, step = (*map(int, numbers), *(int(numbers[0]), 1)[len(numbers) - 1 :])[:3]
        counts.update(range(first, last + 1, step))
    if not counts:
        raise InputError(
            f"--channels {text} names no count; write a range from the smaller to the larger one"
        )
    return sorted(counts)


def _plan(
    costs: Sequence[NetworkCost], *, step: int, channels: Sequence[int] | None, ops: bool, reorders: bool
) -> tuple[Config, ...]:
    from profiler.plan import plan

    return plan(costs, step=step, channels=channels, ops=ops, reorders=reorders)


def _networks(
    loaded: Sequence[tuple[LoadedModel, NetworkCost]], notes: list[str], *, ops: bool, reorders: bool
) -> list[Network]:
    """Return each network as ONNX; one that cannot be exported in its precision is left out with a note."""
    from latency_model.harvest import onnx_at_batch

    whole: list[Network] = []
    for model, cost in loaded:
        shapes = tuple(shape for _, shape in cost.shapes())
        batch = shapes[0].batch
        if model.onnx_path is not None:
            data = onnx_at_batch(model.onnx_path, batch=batch)
        elif shapes[0].precision in _EXPORTED:
            from profiler.onnx_export import export_onnx

            assert model.module is not None
            data = export_onnx(model.module, model.input_shape, batch=batch)
        else:
            notes.append(
                f"networks are exported in fp32, so the whole of {model.name} was not timed in "
                f"{shapes[0].precision}; give it as an ONNX file of that precision"
            )
            continue
        others = tuple(shape for _, shape in cost.op_shapes(reorders=reorders)) if ops else ()
        whole.append((model.name, data, (*shapes, *others)))
    return whole


def _dry_run(environment: Environment, shapes: Sequence[Config], out: Path, *, json: bool) -> None:
    from profiler.runner import missing

    todo = missing(shapes, out=out, environment=environment)
    macs = sum(config.macs for config in todo if isinstance(config, ConvShape))
    seconds = _SECONDS_EACH * len(todo) + _RUNS_EACH * macs / _MACS_PER_SECOND
    if json:
        console.print_json(
            {"configurations": len(shapes), "missing": len(todo), "estimated_seconds": round(seconds, 1)}
        )
        return
    console.out.print(
        f"{len(shapes)} configurations, {len(todo)} of them not in {out}: about {seconds:.0f} s on one core",
        highlight=False,
    )


def _measure(
    workers: Workers,
    shapes: Sequence[Config],
    whole: Sequence[Network],
    out: Path,
    notes: list[str],
    *,
    quiet: bool,
    retry_failed: bool,
) -> LatencyTable:
    from profiler.runner import profile as run

    start = time.perf_counter()
    with console.progress(quiet=quiet) as bar:
        task = bar.add_task("measuring", total=len(shapes), note="")
        first: list[int] = []

        def progress(done: int, total: int, what: str) -> None:
            first.append(done) if not first else None
            rate = (done - first[0]) / max(time.perf_counter() - start, 1e-9)
            bar.update(task, completed=done, total=total, note=f"{rate:.0f}/s {what}" if what else "")

        return run(
            workers,
            shapes,
            out=out,
            networks=whole,
            progress=progress,
            note=notes.append,
            retry_failed=retry_failed,
        )


def _summary(
    table: LatencyTable,
    shapes: Sequence[Config],
    out: Path,
    notes: Sequence[str],
    *,
    seconds: float,
    json: bool,
) -> None:
    failed = {shape.text: table.failures[shape] for shape in shapes if shape in table.failures}
    flags: dict[str, int] = {}
    for shape in shapes:
        row = table.measured(shape)
        for flag in row.flags if row is not None else ():
            flags[flag] = flags.get(flag, 0) + 1
    data = {
        "table": str(out),
        "rows": len(table) + len(table.ops),
        "configurations": len(shapes),
        "failed": failed,
        "flags": flags,
        "networks": [
            {"name": n.name, "batch": n.shapes[0].batch if n.shapes else None, "us": n.measurement.latency_us}
            for n in table.networks
        ],
        "notes": list(notes),
        "seconds": round(seconds, 2),
        "environment": table.environment.to_json(),
    }
    if json:
        console.print_json(data)
        return
    from rich.table import Table

    view = Table(title=f"Latency table {out}", show_header=False)
    view.add_row("configurations asked for", str(len(shapes)))
    view.add_row("rows in the table", str(len(table) + len(table.ops)))
    view.add_row("failed", str(len(failed)))
    for flag, count in sorted(flags.items()):
        view.add_row(f"flagged {flag}", str(count))
    for network in table.networks:
        batch = f" batch {network.shapes[0].batch}" if network.shapes else ""
        view.add_row(f"{network.name}{batch}, measured", f"{network.measurement.latency_us:.1f} us")
    view.add_row("seconds", f"{seconds:.1f}")
    view.add_row("environment", table.environment.text)
    console.out.print(view)
    for text, reason in failed.items():
        console.err.print(f"failed: {text}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for sentence in notes:
        console.err.print(f"note: {sentence}", highlight=False, markup=False, soft_wrap=True)
