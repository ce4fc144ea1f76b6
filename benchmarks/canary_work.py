"""A canary for a busy processor, and the retries that follow it: what canary.py judges.

Not part of the profiler, because it settled too little there: see the figures in README.md.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from latency_model.errors import MeasurementError
from profiler.cpu_conditions import Conditions
from profiler.cpu_counters import Usage

_KEPT = 4096

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class CanaryReading:
    """The time of a fixed compute-bound and of a fixed memory-bound piece of work, in microseconds."""

    compute_us: float
    memory_us: float


class Canary:
    """Two pieces of work of about 1 ms that always take as long on a calm machine.

    One multiplies matrices that fit into the first-level cache, the other copies memory that no cache holds;
    both run in the calling thread. A reading is the fastest of ``repeats`` runs of each: being preempted
    slows down some of the runs, a slow phase all of them. ``baseline`` is the quantile ``quantile`` of what
    this canary has read so far, so it needs a calm moment now and then; one lucky reading does not set it.
    """

    def __init__(
        self,
        *,
        repeats: int = 3,
        quantile: float = 0.1,
        run_us: tuple[Callable[[], float], Callable[[], float]] | None = None,
    ) -> None:
        self._repeats, self._quantile = repeats, quantile
        self._compute, self._memory = run_us or _work()
        self._seen: deque[CanaryReading] = deque(maxlen=_KEPT)

    def read(self) -> CanaryReading:
        """Run the work and remember the reading."""
        compute = min(self._compute() for _ in range(self._repeats))
        memory = min(self._memory() for _ in range(self._repeats))
        reading = CanaryReading(compute, memory)
        self._seen.append(reading)
        return reading

    def warm_up(self, readings: int = 10) -> None:
        """Read a few times, so that there is a baseline to compare with."""
        for _ in range(readings):
            self.read()

    @property
    def baseline(self) -> CanaryReading:
        """What the work takes when the machine is calm, as far as was seen; reads once if nothing was."""
        if not self._seen:
            self.read()
        return CanaryReading(
            float(np.quantile([reading.compute_us for reading in self._seen], self._quantile)),
            float(np.quantile([reading.memory_us for reading in self._seen], self._quantile)),
        )

    def excess(self, reading: CanaryReading) -> float:
        """Return by which part of the baseline the slower of the two pieces is above it; at least 0."""
        calm = self.baseline
        return max(reading.compute_us / calm.compute_us - 1.0, reading.memory_us / calm.memory_us - 1.0, 0.0)

    def disturbed(self, reading: CanaryReading, tolerance: float = 0.1) -> bool:
        """Whether ``reading`` is more than ``tolerance`` above the baseline."""
        return self.excess(reading) > tolerance


def _work() -> tuple[Callable[[], float], Callable[[], float]]:
    """Return the timed compute-bound and memory-bound work, in microseconds."""
    rng = np.random.default_rng(0)
    # 64 is small enough for every BLAS to stay in the calling thread.
    a, b = (rng.standard_normal((64, 64), dtype=np.float32) for _ in range(2))
    product = np.empty_like(a)
    source = rng.standard_normal((16, 1 << 19), dtype=np.float32)  # 32 MiB, read 2 MiB at a time by turns
    target = np.empty(1 << 19, dtype=np.float32)
    turn = 0

    def multiply() -> None:
        for _ in range(160):
            np.matmul(a, b, out=product)

    def copy() -> None:
        nonlocal turn
        for _ in range(12):
            turn = (turn + 1) % len(source)
            np.copyto(target, source[turn])

    return _timed(multiply), _timed(copy)


def _timed(run: Callable[[], None]) -> Callable[[], float]:
    def once() -> float:
        start = time.perf_counter_ns()
        run()
        return (time.perf_counter_ns() - start) / 1e3

    return once


class _Measure(Protocol[T_co]):
    def __call__(self) -> T_co: ...


@dataclass(frozen=True, slots=True)
class MeasuredCalmly(Generic[T]):
    """What was kept of ``tries``, by how much the canaries around it were off, and its flags.

    ``excesses`` are those of all tries that gave something, in order.
    """

    value: T
    flags: tuple[str, ...]
    tries: int
    excess: float
    excesses: tuple[float, ...]
    usage: Usage


def measure_calmly(
    measure: _Measure[T],
    canary: Canary,
    *,
    tries: int = 3,
    tolerance: float = 0.1,
    pause_s: float = 0.0,
    rank: Callable[[T], float] | None = None,
    conditions: Callable[[], Conditions] = Conditions,
    sleep: Callable[[float], None] = time.sleep,
) -> MeasuredCalmly[T]:
    """Return what ``measure`` gives between two canaries that are within ``tolerance`` of their baseline.

    When they are not, it is measured again after ``pause_s``, ``tries`` times at most, and the try with the
    smallest excess is kept. The flag ``disturbed`` says that the canaries around what is kept were off.

    With ``rank``, the latency say, the try of the smallest rank is kept instead: other programs only add time,
    so of several readings the fastest is the least disturbed. Where programs share the processor by turns the
    canary sees only some of what a row suffers, and the rank settles more (see benchmarks/canary.py); without
    it no try is chosen by what it measured. A ``MeasurementError`` on a
    disturbed machine is a try like any other; it is raised when there is no result.
    """
    results: list[tuple[T, Conditions, tuple[CanaryReading, CanaryReading]]] = []
    failure: MeasurementError | None = None
    count, after = 0, canary.read()
    while count < max(tries, 1):
        if count and pause_s:
            sleep(pause_s)
            after = canary.read()
        count, before = count + 1, after
        try:
            with conditions() as around:
                value = measure()
        except MeasurementError as error:
            failure = error
        else:
            failure = None
        after = canary.read()
        if failure is None:
            results.append((value, around, (before, after)))
        if not any(canary.disturbed(reading, tolerance) for reading in (before, after)):
            break
    if not results:
        assert failure is not None
        raise failure
    # By today's baseline: it may have come down since the first try.
    excesses = tuple(max(map(canary.excess, readings)) for _, _, readings in results)
    marks = excesses if rank is None else [rank(value) for value, _, _ in results]
    kept = int(np.argmin(marks))
    value, around, _ = results[kept]
    assert around.usage is not None
    disturbed = ("disturbed",) * (excesses[kept] > tolerance)
    return MeasuredCalmly(value, (*around.flags, *disturbed), count, excesses[kept], excesses, around.usage)
