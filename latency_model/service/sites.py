"""Which convolution sites an environment was measured at, from the lookups alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.plots.style import site_title
from latency_model.service.prepared import Lookups

__all__ = ["MOST", "sites"]

MOST = 500
Ints = NDArray[np.int64]


def sites(lookups: Lookups, *, batch: int | None = None, precision: str | None = None) -> dict[str, Any]:
    """Return the sites that have rows, those with the most rows first and at most ``MOST``; JSON-ready.

    ``config`` is the measured convolution of the site with the most input channels, and of these with the most
    output channels. ``total`` counts all sites of that ``batch`` and ``precision``, None meaning any.
    """
    columns = lookups.columns
    fits = np.ones(len(columns), dtype=bool)
    if batch is not None:
        fits &= columns.batch == min(batch, 2**62)
    if precision is not None:
        fits &= np.array([kind.precision == precision for kind in columns.kinds], dtype=bool)[columns.kind]
    found = columns.take(np.flatnonzero(fits))
    if not len(found):
        return {"total": 0, "sites": []}
    # What a depthwise site has instead of groups is its multiplier, told apart from them by its sign.
    depthwise = (found.groups == found.in_channels) & (found.groups > 1)
    grouped = np.where(depthwise, -(found.out_channels // found.in_channels), found.groups)
    code = np.zeros(len(found), dtype=np.int64)
    for column in (found.kind, found.batch, found.height, found.width, grouped):
        code = _numbered(code * np.int64(len(found)) + _numbered(column))
    rows = np.bincount(code)
    # Of each site the row with the largest inputs, then outputs; both are below 2**31, as those of any tensor.
    width = found.in_channels * np.int64(2**31) + found.out_channels
    widest = np.zeros(len(rows), dtype=np.int64)
    np.maximum.at(widest, code, width)
    last = np.empty(len(rows), dtype=np.int64)
    chosen = np.flatnonzero(width == widest[code])
    last[code[chosen]] = chosen
    best = np.argsort(-rows, kind="stable")[:MOST]
    shapes = list(found.take(last[best]))
    return {
        "total": len(rows),
        "sites": [
            {"config": shape.text, "title": site_title(shape), "rows": count}
            for shape, count in zip(shapes, rows[best].tolist(), strict=True)
        ],
    }


def _numbered(values: Ints) -> Ints:
    """Return for each value the number of it among the distinct ones, so that two such numbers make one."""
    import pandas as pd  # counts by hashing, several times quicker than NumPy, which sorts

    numbers: Ints = pd.factorize(values)[0].astype(np.int64)
    return numbers
