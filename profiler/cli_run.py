"""How `gharial profile` measures: all configurations, or an adaptive plan's rounds, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from latency_model import console
from latency_model.ops import Config
from latency_model.shapes import ConvShape

if TYPE_CHECKING:
    from rich.progress import Progress

    from latency_model.measurement import Measurement
    from latency_model.table import LatencyTable
    from profiler.adaptive import AdaptivePlan
    from profiler.runner import Network
    from profiler.workers import Workers

__all__ = ["measure", "measure_adaptively"]


class _Bar:
    """Shows the rate and what was measured last; a run begins each of its passes with an empty text."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("measuring", total=None, note="")
        self._passes, self._first, self._start = 0, 0, time.perf_counter()
        self.prefix = ""

    def __call__(self, done: int, total: int, what: str) -> None:
        if not what:
            self._passes += 1
            self._first, self._start = done, time.perf_counter()
            if self._passes > 1 and not self.prefix:
                self._bar.reset(self._task, description="measuring again")
        rate = (done - self._first) / max(time.perf_counter() - self._start, 1e-9)
        note = f"{self.prefix}{rate:.0f}/s {what}" if what else self.prefix
        self._bar.update(self._task, completed=done, total=total, note=note)


def measure(
    workers: Workers,
    shapes: Sequence[Config],
    whole: Sequence[Network],
    out: Path,
    notes: list[str],
    *,
    quiet: bool,
    retry_failed: bool,
) -> LatencyTable:
    """Measure what ``out`` lacks of ``shapes`` and of the networks ``whole``, and return the table."""
    from profiler.runner import profile as run

    with console.progress(quiet=quiet) as bar:
        return run(
            workers,
            shapes,
            out=out,
            networks=whole,
            progress=_Bar(bar),
            note=notes.append,
            retry_failed=retry_failed,
        )


def measure_adaptively(
    workers: Workers,
    plan: AdaptivePlan,
    others: Sequence[Config],
    whole: Sequence[Network],
    out: Path,
    notes: list[str],
    *,
    quiet: bool,
    retry_failed: bool,
) -> tuple[LatencyTable, tuple[Config, ...]]:
    """Measure ``others`` and the rounds of ``plan``; return the table and what was asked for."""
    from profiler.adaptive import ROUNDS, Round, profile_adaptively
    from profiler.runner import profile as run

    tables: list[LatencyTable] = []
    with console.progress(quiet=quiet) as bar:
        shown = _Bar(bar)

        def tell(begun: Round) -> None:
            shown.prefix = (
                f"round {begun.number} of at most {ROUNDS}, {begun.measured} of {plan.limit} points, "
            )

        def rows_of(
            batch: Sequence[ConvShape],
        ) -> tuple[Mapping[ConvShape, Measurement], Collection[ConvShape]]:
            table = run(
                workers,
                (*batch, *(() if tables else others)),
                out=out,
                networks=() if tables else whole,
                progress=shown,
                note=notes.append,
                retry_failed=retry_failed,
            )
            tables.append(table)
            return table, {shape for shape in table.failures if isinstance(shape, ConvShape)}

        asked = profile_adaptively(rows_of, plan, tell=tell)
    notes.append(
        f"{len(asked)} of {plan.points} configurations of convolutions were asked for; "
        "the latency model reconstructs the others"
    )
    return tables[-1], (*asked, *others)
