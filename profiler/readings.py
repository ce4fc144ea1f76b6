"""Several readings of one configuration, taken minutes apart, made into one row.

On a machine that does other things as well, a reading can be slow from its first sample to its last: its
interval is then narrow and wrong. Other work only ever makes a reading slower, so the fastest reading is the one
to quote, once another one confirms it. How far two readings of a row lie apart, over all rows of a run, also
says how far a later measurement will be off, which no interval from within one reading can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from latency_model.measurement import Measurement

__all__ = ["AGREE", "calibrate", "combine", "settled"]

AGREE = 0.03
_AGREE_US = 0.1  # the resolution of the medians of tiny shapes
# Of the gap between the first two readings, which nothing has chosen. The quotes of two runs (each the faster of
# two readings) lie closer together: this quantile bounds their difference in 98 % of the rows where readings
# scatter normally. The difference is for a run that is slow as a whole (benchmarks/README.md has what was covered).
_QUANTILE = 0.95
_WINDOW, _FEWEST = 60, 20

_Key = TypeVar("_Key")


def settled(readings: Sequence[Measurement], *, tolerance: float = AGREE) -> bool:
    """Return whether the two fastest of ``readings`` agree, within ``tolerance`` or 0.1 us."""
    if len(readings) < 2:
        return False
    first, second = sorted(reading.latency_us for reading in readings)[:2]
    return second <= max(first * (1.0 + tolerance), first + _AGREE_US)


def combine(readings: Sequence[Measurement], *, tolerance: float = AGREE) -> Measurement:
    """Return the row that ``readings`` of one configuration make: the fastest, as sure as the others make it.

    Its interval is widened to hold the medians of the readings that agree with it. Without such a reading it
    reaches to the second fastest, and the row has the flag ``unstable``; one reading is returned as it is.
    """
    if not readings:
        raise ValueError("a row is made of at least one reading")
    ordered = sorted(readings, key=lambda reading: reading.latency_us)
    best = ordered[0]
    if len(ordered) == 1:
        return best
    sure = settled(ordered, tolerance=tolerance)
    top = max(best.latency_us * (1.0 + tolerance), best.latency_us + _AGREE_US)
    agreeing = [r for r in ordered if r.latency_us <= top] if sure else ordered[:2]
    flags = [flag for flag in best.flags if flag != "unstable" or not sure]
    if not sure and "unstable" not in flags:
        flags.append("unstable")
    count = (
        f"{len(agreeing)} of {len(ordered)} readings agree"
        if sure
        else f"none of {len(ordered)} readings agree"
    )
    return dataclasses.replace(
        best,
        low_us=min(best.low_us, *(r.latency_us for r in agreeing)),
        high_us=max(best.high_us, *(r.latency_us for r in agreeing)),
        samples=sum(r.samples for r in readings),
        flags=tuple(flags),
        note="; ".join(filter(None, (best.note, f"the fastest is quoted, {count}"))),
    )


def calibrate(readings: Mapping[_Key, Sequence[Measurement]]) -> dict[_Key, Measurement]:
    """Return the combined row of each configuration, its interval as wide as re-measuring it would need.

    The width comes from the gaps between the first two readings of the sixty rows nearest in latency (see
    ``_QUANTILE``), so that the interval covers the median of another run and not only that of this one. With
    fewer than 20 rows of at least two readings, the rows are returned as ``combine`` makes them.
    """
    rows = {key: combine(some) for key, some in readings.items()}
    pairs = np.array([(r[0].latency_us, r[1].latency_us) for r in readings.values() if len(r) > 1])
    if len(pairs) < _FEWEST:
        return rows
    where, gaps = np.log(pairs.min(axis=1)), np.abs(np.log(pairs[:, 1] / pairs[:, 0]))
    for key, row in rows.items():
        nearest = np.argsort(np.abs(where - np.log(row.latency_us)), kind="stable")[:_WINDOW]
        factor = float(np.exp(np.quantile(gaps[nearest], _QUANTILE)))
        rows[key] = dataclasses.replace(
            row,
            low_us=min(row.low_us, row.latency_us / factor),
            high_us=max(row.high_us, row.latency_us * factor),
        )
    return rows
