"""The method ``graph-increment``: what one more copy adds to a replayed CUDA graph, ``(t_R - t_1) / (R - 1)``.

The launch of the graph, and whatever else happens once a replay, cancels. It needs no profiler, so it works
where CUPTI is not permitted; the kernels' names then stay unknown.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import MeasurementError
from latency_model.ops import Config
from profiler.gpu.cold import cold_elapsed_us
from profiler.gpu.program import Clock, Kernel, Program, Runtime
from profiler.gpu.reading import Reading, shares
from profiler.sampling import Policy, Sampled, collect, summarise, warm_up

__all__ = ["Incremented", "Incrementer", "choose_copies"]

RESOLUTION_US = 0.5  # of CUDA events, as the CUDA runtime documents it
_SIGNAL = 100  # how many resolutions the difference of the two times should be
_FEWEST, _MOST = 3, 65
_QUICK, _TRACED, _COLD = 7, 5, 25


def choose_copies(increment_us: float) -> int:
    """Return the R for which ``R - 1`` increments are 100 times the clock's resolution, from 3 to 65."""
    if not increment_us > 0:
        return _MOST
    return min(max(1 + math.ceil(_SIGNAL * RESOLUTION_US / increment_us), _FEWEST), _MOST)


@dataclass(frozen=True, slots=True)
class Incremented:
    """The reading of one build, its cold time if asked for, and the output of one copy if asked for."""

    reading: Reading
    cold_us: float | None
    output: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True)
class Incrementer:
    """Builds a configuration as graphs of one and of R copies and times them by turns."""

    clock: Clock
    runtime: Runtime
    policy: Policy

    def read(
        self, config: Config, *, seed: int, cold: bool, output: bool, is_new: Callable[[str], bool]
    ) -> Incremented:
        """Return the increment of one build; ``MeasurementError`` when it is not above the noise.

        ``cold`` and ``output`` ask for these where ``is_new`` says so of the kernels that ran.

        The boundary kernels of a copy are subtracted by their traced times; where no trace can be had,
        ``boundary_us`` is None and they are part of the latency. Copies that run different kernels, because
        each has a search of its own, get the flag ``mixed-kernels``: the time is then their average.
        """
        with self._built(config, 1, seed) as (one, _):
            # The time of one replay is more than the increment, so this is the fewest copies that may do.
            copies = choose_copies(min(self.clock.elapsed_us(one.run) for _ in range(_QUICK)))
            while True:
                with self._built(config, copies, seed) as (many, built):
                    draw = self._draw(one, many, built)
                    warm_up(draw, policy=self.policy)
                    wanted = choose_copies(float(np.median([draw() for _ in range(_QUICK)])))
                    if built == copies < wanted:
                        copies = wanted
                        continue
                    reading = self._reading(draw, one, many, built)
                    new = is_new(reading.key)
                    result = np.asarray(one.outputs()[0]) if output and new else None
                    cold_us = self._cold(one, many, built) if cold and new else None
                    return Incremented(reading, cold_us, result)

    @contextmanager
    def _built(self, config: Config, copies: int, seed: int) -> Iterator[tuple[Program, int]]:
        """Yield a program of ``copies`` copies, or of as many, at least 2, as can be built."""
        program = None
        while program is None:
            try:
                program = self.runtime.build([config], copies=copies, graph=True, seed=seed)
            except MeasurementError:
                if copies <= 2:
                    raise
                copies = max(copies // 2, 2)
        try:
            yield program, copies
        finally:
            program.close()

    def _draw(self, one: Program, many: Program, copies: int) -> Callable[[], float]:
        def draw() -> float:
            short = self.clock.elapsed_us(one.run)
            return (self.clock.elapsed_us(many.run) - short) / (copies - 1)

        return draw

    def _reading(self, draw: Callable[[], float], one: Program, many: Program, copies: int) -> Reading:
        sampled = collect(draw, policy=self.policy)
        kernels, boundary_us, mixed = self._kernels(one, many, copies)
        if boundary_us:
            sampled = _shifted(sampled, -boundary_us, self.policy)
        if not sampled.median_us > 0:
            raise MeasurementError(
                f"one more copy adds {sampled.median_us:.3f} us to a graph of {copies}: it cannot be told from "
                "the noise; use the method kernel-trace"
            )
        return Reading(sampled, kernels, boundary_us, ("mixed-kernels",) if mixed else ())

    def _kernels(
        self, one: Program, many: Program, copies: int
    ) -> tuple[tuple[tuple[str, float], ...], float | None, bool]:
        """Return names and shares of what a copy adds, its boundary time, and whether the copies differ."""
        try:
            short, long = (self._traced(program) for program in (one, many))
        except MeasurementError:
            return (), None, False
        ends = [sum(k.duration_us for k in run if self._is_boundary(k)) for run in (short, long)]
        boundary_us = max(ends[1] - ends[0], 0.0) / (copies - 1)
        own, all_own = ([k for k in run if not self._is_boundary(k)] for run in (short, long))
        counts, all_counts = (Counter(k.name for k in kernels) for kernels in (own, all_own))
        mixed = any(
            all_counts[name] not in (counts[name], copies * counts[name]) for name in counts | all_counts
        )
        # What runs once however many copies there are is no part of a copy.
        added = [k for k in (all_own if mixed else own) if mixed or all_counts[k.name] > counts[k.name]]
        if mixed:
            total = {k.name: 0.0 for k in added}
            for kernel in added:
                total[kernel.name] += kernel.duration_us
            added = [Kernel(name, 0.0, time_us) for name, time_us in sorted(total.items())]
        return shares(added, [k.duration_us for k in added]), boundary_us, mixed

    def _traced(self, program: Program) -> list[Kernel]:
        """Return the kernels of one replay with their median durations."""
        runs = [run[0] for run in self.clock.trace([program.run], runs=_TRACED)]
        if not runs[0] or any([k.name for k in run] != [k.name for k in runs[0]] for run in runs):
            raise MeasurementError("the replays of one graph show different kernels")
        medians = np.median([[k.duration_us for k in run] for run in runs], axis=0)
        return [dataclasses.replace(k, duration_us=float(m)) for k, m in zip(runs[0], medians, strict=True)]

    def _is_boundary(self, kernel: Kernel) -> bool:
        return bool(self.runtime.boundary.search(kernel.name))

    def _cold(self, one: Program, many: Program, copies: int) -> float | None:
        short, long = (cold_elapsed_us(self.clock, program.run, samples=_COLD) for program in (one, many))
        cold_us = (long - short) / (copies - 1)
        return cold_us if cold_us > 0 else None


def _shifted(sampled: Sampled, by_us: float, policy: Policy) -> Sampled:
    return dataclasses.replace(
        summarise([value + by_us for value in sampled.values_us], policy=policy), stable=sampled.stable
    )
