"""What `gharial profile` says before it measures (a dry run) and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latency_model import console
from latency_model.ops import Config
from latency_model.shapes import ConvShape

if TYPE_CHECKING:
    from latency_model.environment import Environment
    from latency_model.table import LatencyTable
    from profiler.adaptive import AdaptivePlan

__all__ = ["dry_run", "summary"]

# For the estimate of a dry run only: building and warming up a configuration, runs of it, and their speed.
_SECONDS_EACH, _RUNS_EACH, _MACS_PER_SECOND = 0.03, 30, 30e9


def dry_run(
    environment: Environment,
    shapes: Sequence[Config],
    out: Path,
    *,
    passes: int,
    plan: AdaptivePlan | None,
    json: bool,
) -> None:
    """Print how many configurations there are, how many are missing, and about how long they take."""
    from profiler.runner import missing

    todo = missing(shapes, out=out, environment=environment)
    macs = sum(config.macs for config in todo if isinstance(config, ConvShape))
    seconds = passes * (_SECONDS_EACH * len(todo) + _RUNS_EACH * macs / _MACS_PER_SECOND)
    data = {"configurations": len(shapes), "missing": len(todo)}
    if plan is not None:
        others = len(shapes) - plan.points
        data["at_most"] = min(plan.limit + others, len(todo))
        seconds *= data["at_most"] / max(len(todo), 1)
    if json:
        console.print_json({**data, "estimated_seconds": round(seconds, 1)})
        return
    what = f"{len(todo)} of them not in {out}"
    if plan is not None:
        what += f", of which at most {data['at_most']} are measured, in rounds"
    console.out.print(
        f"{len(shapes)} configurations, {what}: about {seconds:.0f} s on one core", highlight=False
    )


def summary(
    table: LatencyTable,
    shapes: Sequence[Config],
    out: Path,
    notes: Sequence[str],
    *,
    seconds: float,
    json: bool,
) -> None:
    """Print what was measured, what failed and why, and what the user should know of it."""
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
