"""Axes of latencies: ends that hold every mark, on a logarithmic scale or not."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["log_ends", "log_ticks", "top"]

# Room at the ends of a logarithmic axis, in decades.
_ROOM = 0.06
_STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8))


def log_ends(values: Iterable[float]) -> tuple[float, float]:
    """Return the two ends of a logarithmic axis of ``values``; at least a quarter of a decade, 1 to 10 of none."""
    found = [math.log10(value) for value in values]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    room = max(_ROOM, (0.25 - (high - low)) / 2)
    return 10 ** (low - room), 10 ** (high + room)


def log_ticks(ends: tuple[float, float]) -> list[float]:
    """Return round numbers between the ends, about three to eight."""
    low, high = ends
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    return ticks


def top(values: Iterable[float]) -> float:
    """Return the upper end of an axis from zero that leaves room above the largest finite value."""
    return 1.08 * max((value for value in values if math.isfinite(value)), default=1.0)
