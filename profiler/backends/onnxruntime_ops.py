"""Operators that are no convolutions, on ONNX Runtime's CPU: what a branch with one takes more than without."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import OpShape
from profiler.op_graphs import Branches, op_branches, sink_branches
from profiler.sampling import Policy, Sampled, collect, measurement, warm_up

__all__ = ["BELOW_RESOLUTION", "OpTimer", "row_of"]

BELOW_RESOLUTION = "below-resolution"
_SINKS = 17
_SINK_POLICY = Policy(relative=0.02, absolute_us=0.02, max_seconds=0.03)
# Bytes per microsecond of one core that streams from its caches: only the number of copies follows from it.
_STREAM = 10e3
_MOST_BYTES = 1 << 28  # of weights in one graph

# Opens a model and returns what times one run of it on a feed.
Runner = Callable[[bytes, Mapping[str, NDArray[Any]]], Callable[[], float]]


class OpTimer:
    """Times operators with sessions that ``runner`` opens; the sinks of branches are timed once each.

    With R branches in either session the row is ``(t_with - t_without) / R``, the two run by turns, less the
    difference of their sinks.
    """

    def __init__(self, runner: Runner, *, policy: Policy, seed: int) -> None:
        self._runner, self._policy, self._seed = runner, policy, seed
        self._sinks: dict[tuple[object, ...], Sampled] = {}

    def clear(self) -> None:
        """Forget the timed sinks."""
        self._sinks.clear()

    def measure(self, shape: OpShape, *, run_id: str) -> Measurement:
        """Return the row of ``shape``; ``MeasurementError`` for one that cannot be timed."""
        copies = _copies(shape)
        sides = [op_branches(shape, copies, operator=which, seed=self._seed) for which in (True, False)]
        long, short = (self._timer(side) for side in sides)

        def draw() -> float:
            less, more = short(), long()
            return (more - less) / copies

        warm_up(draw, policy=self._policy)
        sampled = collect(draw, policy=self._policy)
        sinks = [
            (sign * count, self._sink(shape, blocked=blocked))
            for sign, side in zip((1, -1), sides, strict=True)
            for blocked, count in side.sinks.items()
            if count
        ]
        return row_of(sampled, sinks, run_id=run_id, what=shape.text)

    def _timer(self, side: Branches) -> Callable[[], float]:
        return self._runner(side.model, side.feed)

    def _sink(self, shape: OpShape, *, blocked: bool) -> Sampled:
        size = shape.inputs[0]
        size = (size[0], size[1], 7, 7) if blocked else (*(1,) * (len(size) - 1), 2 * _SINKS)
        key = (blocked, shape.precision, size)
        if key not in self._sinks:
            one, many = (
                self._timer(
                    sink_branches(size, n, blocked=blocked, precision=shape.precision, seed=self._seed)
                )
                for n in (1, _SINKS)
            )

            def draw() -> float:
                less, more = one(), many()
                return (more - less) / (_SINKS - 1)

            warm_up(draw, policy=_SINK_POLICY)
            self._sinks[key] = collect(draw, policy=_SINK_POLICY)
        return self._sinks[key]


def _copies(shape: OpShape) -> int:
    """Return how many branches to time: 8 of a small operator, 2 of a large one."""
    read = 4 * sum(map(math.prod, (*shape.inputs, *shape.weights)))
    fits = _MOST_BYTES // max(1, 4 * sum(map(math.prod, shape.weights)))
    return int(np.clip(min(round(1500.0 / (read / _STREAM + 2.0)), fits), 2, 8))


def row_of(sampled: Sampled, sinks: list[tuple[int, Sampled]], *, run_id: str, what: str) -> Measurement:
    """Return a row of ``sampled`` less ``count`` times each sink.

    An interval that reaches down to 0 gets the flag ``below-resolution``, and a median that is not positive is
    replaced by the middle of the positive part of its interval. Raises ``MeasurementError`` when nothing of the
    interval is positive.
    """
    offset = sum(count * sink.median_us for count, sink in sinks)
    slack = sum(abs(count) * sink.width_us for count, sink in sinks) / 2
    low, high = sampled.low_us - offset - slack, sampled.high_us - offset + slack
    if high <= 0:
        raise MeasurementError(
            f"the time cannot be told from that of the branches around it ({sampled.median_us:.3f} us "
            f"against {offset:.3f} us); the machine is busy: {what}"
        )
    median = sampled.median_us - offset
    flags = (BELOW_RESOLUTION,) if low <= 0 else ()
    low = max(0.0, low)
    shifted = dataclasses.replace(
        sampled,
        values_us=tuple(value - offset for value in sampled.values_us),
        median_us=median if median > 0 else high / 2,
        low_us=low,
        high_us=high,
    )
    return measurement(shifted, method="host-increment", run_id=run_id, flags=flags)
