"""A host timer that knows when it lost the processor.

On a machine that others use, a run of a few milliseconds is seldom left alone: its wall-clock time is then
that of two programs. The thread's own processor time tells, sample by sample.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CpuTimer", "cpu_timer"]


def cpu_timer(threads: int) -> Callable[[Callable[[], object]], float]:
    """Return what times a run that ``threads`` threads share, in microseconds.

    A thread's own processor time says nothing of a pool of them: only one thread gets a ``CpuTimer``.
    """
    return CpuTimer() if threads == 1 else _wall_us


def _wall_us(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e3


@dataclass(slots=True)
class CpuTimer:
    """Times runs that happen in the calling thread only, and repeats those that were interrupted.

    A run counts as interrupted when the thread was without a processor for more than ``share`` of it and more
    than ``least_us``. After ``tries`` interrupted runs the processor time of the one that waited least is
    taken. Runs are chosen by their waiting and not by their time. ``drawn`` is how many times were given,
    ``repeated`` how many runs were repeated for them, ``estimated`` how many times are processor time.
    """

    share: float = 0.02
    least_us: float = 2.0
    tries: int = 5
    drawn: int = 0
    repeated: int = 0
    estimated: int = 0
    wall_ns: Callable[[], int] = time.perf_counter_ns
    cpu_ns: Callable[[], int] = time.thread_time_ns

    def __call__(self, run: Callable[[], object]) -> float:
        """Return the time of one run of ``run``, in microseconds."""
        self.drawn += 1
        least_waited, estimate_us = float("inf"), 0.0
        for attempt in range(max(self.tries, 1)):
            self.repeated += attempt > 0
            # The wall clock is read inside: reading the other one is a system call of half a microsecond.
            cpu, wall = self.cpu_ns(), self.wall_ns()
            run()
            wall_us = (self.wall_ns() - wall) / 1e3
            cpu_us = (self.cpu_ns() - cpu) / 1e3
            waited_us = wall_us - cpu_us
            if waited_us <= max(self.share * wall_us, self.least_us):
                return wall_us
            if waited_us < least_waited:
                least_waited, estimate_us = waited_us, cpu_us
        self.estimated += 1
        return estimate_us

    @property
    def interrupted(self) -> float:
        """The share of all runs so far that were interrupted."""
        runs = self.drawn + self.repeated
        return (self.repeated + self.estimated) / runs if runs else 0.0
