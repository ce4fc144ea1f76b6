"""Rows of one file that are the same convolution: told of, refused when too far apart, and bounded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import RowsError
from latency_model.rows.duplicates import Merged
from latency_model.rows.latencies import Latencies
from latency_model.rows.problems import counted, numbered
from latency_model.rows.source import Source

__all__ = ["interval", "report_equal", "widest"]

_SHOWN_GROUPS = 3

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def report_equal(
    source: Source,
    good: Ints,
    within: Ints,
    merged: Merged,
    *,
    agree: float,
    fatal: bool,
    notes: list[str],
) -> None:
    """Note rows of one convolution, and raise where their latencies are too far apart."""
    several = np.flatnonzero(merged.rows > 1)
    if not len(several):
        return
    apart = merged.greatest / merged.least - 1
    notes.append(
        f"{int(merged.rows[several].sum())} rows are of {counted(len(several), 'convolution')} given several times, "
        "joined to the median"
        + (f"; they differ by up to {np.nanmax(apart):.1%}" if not np.isnan(apart[several]).all() else "")
    )
    far = np.flatnonzero(apart > agree)
    if not len(far):
        return
    said = []
    for convolution in far[:_SHOWN_GROUPS]:
        rows = good[within == convolution]
        said.append(
            f"{numbered(rows)}: {merged.least[convolution]:.6g} to {merged.greatest[convolution]:.6g} us"
        )
    text = (
        f"equal rows whose latencies differ by more than {agree:.0%}, of {counted(len(far), 'convolution')} "
        f"({'; '.join(said)}{'; and more' if len(far) > len(said) else ''})"
    )
    if fatal:
        raise RowsError(
            f"{source.path} has {text.replace('; ', ', ')}; keep one of each, or take the median with "
            '--on-bad drop (in Python on_bad="drop")'
        )
    notes.append(f"the median was taken of {text}")


def interval(
    given: Latencies | None, merged: Merged, good: Ints, within: Ints
) -> tuple[Floats | None, Floats | None]:
    """Return bounds: those of the file, widened to the least and greatest of equal rows, which stand alone too."""
    if given is None:
        return None, None
    several = merged.rows > 1
    low = np.where(several, merged.least, np.nan)
    high = np.where(several, merged.greatest, np.nan)
    if given.low_us is not None and given.high_us is not None:
        known = ~np.isnan(given.latency_us[good])
        np.fmin.at(low, within[known], given.low_us[good][known])
        np.fmax.at(high, within[known], given.high_us[good][known])
    if np.isnan(low).all():
        return None, None
    return low, high


def widest(values: Floats | None, good: Ints, within: Ints, join: np.ufunc) -> Floats | None:
    """Return ``values`` of equal rows joined by ``np.fmin`` or ``np.fmax``; ``good`` rows are in sets ``within``."""
    if values is None:
        return None
    joined = np.full(int(within.max()) + 1, np.nan)
    join.at(joined, within, values[good])
    return joined
