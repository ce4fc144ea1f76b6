"""Two cache regimes: hot, with the data that the last run left in the cache, and cold, with none of it.

Inside a network the truth lies between them: a convolution finds its input in the cache, because the layer
before has just written it, and its weights mostly not. The two regimes are measured apart, never by turns: a
run after an eviction disturbs the next ones as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from profiler.gpu.program import Clock, Step
from profiler.sampling import Policy

__all__ = ["cold_elapsed_us", "cold_passes", "cold_policy", "hot_passes"]


def hot_passes(step: Step) -> Sequence[Callable[[], None]]:
    """Return what to enqueue so that the last pass finds its data in the cache if they fit.

    A step of one configuration runs twice. Where a step holds several, each finds what the others left
    there: its own data only if those of all fit.
    """
    return (step.run, step.run) if len(step.configs) == 1 else (step.run,)


def cold_passes(clock: Clock) -> Callable[[Step], Sequence[Callable[[], None]]]:
    """Return the passes of a step with an eviction before it, whose own kernels do not count.

    A step of several configurations is cold for each of them, as each has inputs and weights of its own.
    """
    return lambda step: (clock.evict, step.run)


def cold_policy(policy: Policy) -> Policy:
    """Return ``policy`` with wider intervals: rows hold the cold median alone, without an interval."""
    return dataclasses.replace(
        policy,
        relative=4 * policy.relative,
        absolute_us=4 * policy.absolute_us,
        max_samples=max(policy.max_samples // 4, policy.min_samples),
    )


def cold_elapsed_us(clock: Clock, run: Callable[[], None], *, samples: int) -> float:
    """Return the median time of single runs, each after an eviction that is outside the timed window."""
    times = []
    for _ in range(samples):
        clock.evict()
        clock.synchronise()
        times.append(clock.elapsed_us(run))
    return float(np.median(times))
