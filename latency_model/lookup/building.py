"""From rows in any order to the arrays of a lookup table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.lookup.file import VALUES, Parts
from latency_model.lookup.keys import MOST_ROWS, Packing, bucket_of, fields_of

__all__ = ["built"]

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def built(environment: Environment, columns: ConvColumns, values: Sequence[Floats]) -> Parts:
    """Return the parts of a table of ``columns``; ``values`` are those of ``VALUES``. See ``LookupTable.of``."""
    values = [np.asarray(array, dtype=np.float64) for array in values]
    if any(array.shape != (len(columns),) for array in values):
        shapes = ", ".join(f"{array.shape}" for array in values)
        raise TableError(f"{len(columns)} convolutions need as many latencies, not arrays of {shapes}")
    if len(columns) > MOST_ROWS:
        raise TableError(f"a lookup table has at most {MOST_ROWS} rows, not {len(columns)}; split the table")
    used = np.unique(columns.kind).tolist()
    kinds = tuple(dict.fromkeys(columns.kinds[place] for place in used if 0 <= place < len(columns.kinds)))
    fields = fields_of(columns, {kind: code for code, kind in enumerate(kinds)})
    _check_columns(columns)
    _check_values(columns, values)
    packing = Packing.of(fields)
    words = packing.words(fields)
    once = _once(words, values, columns)
    size = len(once)
    bucket = bucket_of([word[once] for word in words], size)
    order = np.argsort(bucket, kind="stable")
    starts = np.searchsorted(bucket[order], np.arange(size, dtype=np.uint64))
    rows = once[order]
    return Parts(
        environment,
        kinds,
        packing,
        starts.astype(np.uint32),
        tuple(word[rows] for word in words),
        tuple(array[rows] for array in values),
    )


def _check_columns(columns: ConvColumns) -> None:
    """Raise what ``ConvShape`` says of the first row that is no convolution."""
    sizes = (columns.batch, columns.in_channels, columns.height, columns.width, columns.out_channels)
    wrong = columns.groups < 1
    for size in sizes:
        wrong = wrong | (size < 1)
    groups = np.maximum(columns.groups, 1)
    wrong |= (columns.in_channels % groups != 0) | (columns.out_channels % groups != 0)
    wrong |= (columns.out_height < 1) | (columns.out_width < 1)
    # What a kind alone gets wrong is wrong in its first row.
    suspects = np.concatenate([np.flatnonzero(wrong), np.unique(columns.kind, return_index=True)[1]])
    for _ in columns.take(suspects):
        pass


def _check_values(columns: ConvColumns, values: Sequence[Floats]) -> None:
    latency, low, high = values
    right = (low <= latency) & (latency <= high) & (latency > 0) & np.isfinite(low) & np.isfinite(high)
    for place in np.flatnonzero(~right)[:1].tolist():
        raise TableError(
            f"row {place} ({_text(columns, place)}) has {', '.join(VALUES)} = "
            f"{', '.join(f'{array[place]:g}' for array in values)}; a latency must be finite, positive and "
            "inside its interval"
        )


def _once(words: Sequence[NDArray[np.uint64]], values: Sequence[Floats], columns: ConvColumns) -> Places:
    """Return the place of one row of each key; ``TableError`` when two rows of a key disagree."""
    order = np.lexsort(words)
    first, second = order[:-1], order[1:]
    same = np.ones(len(second), dtype=np.bool_)
    for word in words:
        same &= word[first] == word[second]
    agree = np.ones(len(second), dtype=np.bool_)
    for array in values:
        agree &= array[first] == array[second]
    for pair in np.flatnonzero(same & ~agree)[:1].tolist():
        one, other = sorted((int(first[pair]), int(second[pair])))
        count = int(np.count_nonzero(same & ~agree))
        raise TableError(
            f"rows {one} and {other} are both {_text(columns, one)} but say {values[0][one]:g} and "
            f"{values[0][other]:g} us ({count} such pairs); keep one of them"
        )
    return order[np.concatenate([np.ones(min(len(order), 1), dtype=np.bool_), ~same])]


def _text(columns: ConvColumns, place: int) -> str:
    return next(iter(columns.take(slice(place, place + 1)))).text
