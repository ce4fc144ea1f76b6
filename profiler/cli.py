"""The command `gharial profile`: time every convolution configuration of some networks into a table."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from latency_model import console
from latency_model.errors import InputError
from latency_model.shapes import PRECISIONS, ConvShape

if TYPE_CHECKING:
    from latency_model.measurement import Measurement
    from latency_model.network import NetworkCost
    from latency_model.table import LatencyTable
    from latency_model.zoo import LoadedModel
    from profiler.adaptive import AdaptivePlan
    from profiler.backends.base import Backend
    from profiler.runner import Network

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

_BATCH = ("--batch", "-b")
_EXPORTED = ("fp32", "tf32")  # what a network exported with 32-bit floats may be computed in
# For the estimate of a dry run only: building and warming up a configuration, runs of it, and their speed.
_SECONDS_EACH, _RUNS_EACH, _MACS_PER_SECOND = 0.03, 30, 30e9


class _SeveralBatches(TyperCommand):
    """Lets `--batch 1 8` stand for `--batch 1 --batch 8`: no model's name is a number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given, spread, in_batch = list(args), [], False
        for position, word in enumerate(given):
            if word == "--":
                spread += given[position:]
                break
            if in_batch and word.isdecimal() and spread[-1] not in _BATCH:
                spread.append(_BATCH[0])
            elif word.startswith("-") or not word.isdecimal():
                in_batch = word in _BATCH
            spread.append(word)
        return super().parse_args(ctx, spread)


@app.command(
    cls=_SeveralBatches,
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
    device: Annotated[str, typer.Option(help="What to time on: cpu.")] = "cpu",
    runtime: Annotated[str, typer.Option(help="onnxruntime, torch, or fake (for tests).")] = "onnxruntime",
    precision: Annotated[
        str | None,
        typer.Option(help=", ".join(PRECISIONS), show_default="fp32, of an ONNX file its own"),
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
    step: Annotated[int, typer.Option(min=1, help="Distance of the channel counts of the grids.")] = 8,
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many configurations and how long.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Time every convolution of MODEL..., at every channel count of a grid, on a device.

    Stopped at any moment, the same command goes on where it was: every finished row is on the disk.
    """
    from profiler.backends import open_backend, require_precision

    if budget is not None and not adaptive:
        raise InputError("--budget is of an adaptive plan; give --adaptive as well")
    if precision not in (None, *PRECISIONS):
        raise InputError(f"unknown precision {precision!r}; known are {', '.join(PRECISIONS)}")
    start = time.perf_counter()
    with open_backend(runtime, device=device, precision=precision, threads=threads) as backend:
        loaded = _load(models, batches=sorted(set(batch)) if batch else [None], precision=precision)
        shapes = _plan([cost for _, cost in loaded], step=step)
        for needed in sorted({shape.precision for shape in shapes}):
            require_precision(backend, needed)
        plan = _adaptive(shapes, budget) if adaptive else None
        if dry_run:
            _dry_run(backend, shapes, out, plan=plan, json=json)
            return
        notes: list[str] = []
        whole = _networks(loaded, notes) if networks else []
        if plan is not None:
            table, shapes = _measure_adaptively(
                backend, plan, whole, out, notes, quiet=json, retry_failed=retry_failed
            )
        else:
            table = _measure(backend, shapes, whole, out, notes, quiet=json, retry_failed=retry_failed)
    _summary(table, shapes, out, notes, seconds=time.perf_counter() - start, json=json)


def _load(
    models: Sequence[str], *, batches: Sequence[int | None], precision: str | None
) -> list[tuple[LoadedModel, NetworkCost]]:
    """Return (loaded model, its cost) for each model and batch."""
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    loaded = [load_model(name) for name in models]
    return [
        (model, harvest(model, batch=batch, precision=precision)) for model in loaded for batch in batches
    ]


def _plan(costs: Sequence[NetworkCost], *, step: int) -> tuple[ConvShape, ...]:
    from profiler.plan import plan

    return plan(costs, step=step)


def _adaptive(shapes: Sequence[ConvShape], budget: float | None) -> AdaptivePlan:
    from profiler.adaptive import BUDGET, AdaptivePlan, site_grids

    return AdaptivePlan(site_grids(shapes), BUDGET if budget is None else budget)


def _networks(loaded: Sequence[tuple[LoadedModel, NetworkCost]], notes: list[str]) -> list[Network]:
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
        whole.append((model.name, data, shapes))
    return whole


def _dry_run(
    backend: Backend, shapes: Sequence[ConvShape], out: Path, *, plan: AdaptivePlan | None, json: bool
) -> None:
    from profiler.runner import missing

    todo = missing(shapes, out=out, environment=backend.environment)
    macs = sum(config.macs for config in todo if isinstance(config, ConvShape))
    seconds = _SECONDS_EACH * len(todo) + _RUNS_EACH * macs / _MACS_PER_SECOND
    if plan is not None:
        seconds *= min(1.0, plan.limit / max(len(todo), 1))
        at_most = min(plan.limit, len(todo))
        if json:
            console.print_json(
                {"configurations": len(shapes), "at_most": at_most, "estimated_seconds": round(seconds, 1)}
            )
            return
        console.out.print(
            f"at most {at_most} of {len(shapes)} configurations, in rounds: about {seconds:.0f} s on one core",
            highlight=False,
        )
        return
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
    backend: Backend,
    shapes: Sequence[ConvShape],
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
            backend,
            shapes,
            out=out,
            networks=whole,
            progress=progress,
            note=notes.append,
            retry_failed=retry_failed,
        )


def _measure_adaptively(
    backend: Backend,
    plan: AdaptivePlan,
    whole: Sequence[Network],
    out: Path,
    notes: list[str],
    *,
    quiet: bool,
    retry_failed: bool,
) -> tuple[LatencyTable, tuple[ConvShape, ...]]:
    """Measure the rounds of ``plan``; return the table and what was asked for."""
    from profiler.adaptive import ROUNDS, Round, profile_adaptively
    from profiler.runner import profile as run

    tables: list[LatencyTable] = []
    with console.progress(quiet=quiet) as bar:
        task = bar.add_task("measuring", total=plan.limit, note="")
        said: list[Round] = []

        def progress(done: int, total: int, what: str) -> None:  # noqa: ARG001 - of the batch, not of the plan
            note = f"round {said[-1].number} of at most {ROUNDS} {what}"
            bar.update(task, completed=said[-1].measured + done, note=note)

        def measure(
            batch: Sequence[ConvShape],
        ) -> tuple[Mapping[ConvShape, Measurement], Collection[ConvShape]]:
            table = run(
                backend,
                batch,
                out=out,
                networks=() if tables else whole,
                progress=progress,
                note=notes.append,
                retry_failed=retry_failed,
            )
            tables.append(table)
            return table, {shape for shape in table.failures if isinstance(shape, ConvShape)}

        asked = profile_adaptively(measure, plan, tell=said.append)
    notes.append(
        f"{len(asked)} of {plan.points} configurations were asked for; the latency model reconstructs the others"
    )
    return tables[-1], tuple(asked)


def _summary(
    table: LatencyTable,
    shapes: Sequence[ConvShape],
    out: Path,
    notes: Sequence[str],
    *,
    seconds: float,
    json: bool,
) -> None:
    failed = {shape.text: table.failures[shape] for shape in shapes if shape in table.failures}
    flags: dict[str, int] = {}
    for shape in shapes:
        for flag in table[shape].flags if shape in table else ():
            flags[flag] = flags.get(flag, 0) + 1
    data = {
        "table": str(out),
        "rows": len(table),
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
    view.add_row("rows in the table", str(len(table)))
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
