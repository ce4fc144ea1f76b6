"""Equal rows found and joined, by sorting: a million rows in a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Merged", "group", "merge"]

_LARGEST = 2**62

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def group(columns: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Return the place of the first of each set of equal rows, ascending, and the set of each row.

    The integer columns are folded into one number per row; where that would overflow, what there is so far is
    replaced by its rank.
    """
    key, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    if not len(key):
        return key, key
    for column in columns:
        digits, span = _ranged(column)
        if size * span > _LARGEST:
            key, size = _ranked(key)
        if size * span > _LARGEST:
            digits, span = _ranked(digits)
        key, size = key * span + digits, size * span
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[place].astype(np.int64)


def _ranged(column: Ints) -> tuple[Ints, int]:
    low = int(column.min())
    return column - low, int(column.max()) - low + 1


def _ranked(column: Ints) -> tuple[Ints, int]:
    found, ranks = np.unique(column, return_inverse=True)
    return ranks.astype(np.int64), len(found)


@dataclass(frozen=True)
class Merged:
    """Per set of equal rows: the median, least and greatest value, NaN where it has none.

    ``typical`` is the row that has the median, or the value below it; ``rows`` how many rows the set has.
    """

    median: Floats
    least: Floats
    greatest: Floats
    typical: Ints
    rows: Ints


def merge(place: Ints, values: Floats) -> Merged:
    """Join ``values`` of the rows of each set; ``place`` has every number from 0 to the last set. NaN is left out."""
    rows = np.bincount(place).astype(np.int64)
    order = np.lexsort((values, place))  # NaN comes last within its set
    start = np.cumsum(rows) - rows
    known = np.bincount(place, weights=~np.isnan(values), minlength=len(rows)).astype(np.int64)
    last = np.maximum(known - 1, 0)
    ordered = values[order]
    lower, upper = ordered[start + last // 2], ordered[start + (last + 1) // 2]
    return Merged(
        median=lower + (upper - lower) / 2,
        least=ordered[start],
        greatest=ordered[start + last],
        typical=order[start + last // 2],
        rows=rows,
    )
