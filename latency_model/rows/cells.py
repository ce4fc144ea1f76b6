"""Cells of an Arrow column as NumPy arrays, with masks of what is empty or no number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Numbers", "Words", "numbers", "words"]

_NUMBER = r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^-?([iI]nf|INF|[iI]nfinity)$"


@dataclass(frozen=True)
class Numbers:
    """float64 ``values`` of shape (n,), NaN where the cell is ``empty`` (NaN counts as that) or ``text``."""

    values: NDArray[np.float64]
    empty: NDArray[np.bool_]
    text: NDArray[np.bool_]


@dataclass(frozen=True)
class Words:
    """``codes`` of shape (n,) are places in ``words``, -1 where the cell is empty."""

    codes: NDArray[np.int64]
    words: tuple[str, ...]


def numbers(column: Any) -> Numbers:
    """Return the numbers of ``column``; what is neither number, number as text nor empty counts as text."""
    column = _plain(column)
    kind = column.type
    text = np.zeros(len(column), dtype=bool)
    if _is_text(kind):
        column = pc.utf8_trim_whitespace(column)
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            number = pc.fill_null(pc.match_substring_regex(column, _NUMBER), True)
            empty = pc.fill_null(pc.is_in(column, pa.array(["", "nan", "NaN"])), True)
            text = ~(_mask(number) | _mask(empty))
            column = pc.cast(pc.if_else(number, column, pa.scalar(None, pa.string())), pa.float64())
    elif pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        column = pc.cast(column, pa.float64(), safe=False)
    elif pa.types.is_decimal(kind):
        column = pc.cast(column, pa.float64())
    else:  # truth values, times, lists
        text = ~_mask(column.is_null())
        column = pa.nulls(len(column), pa.float64())
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return Numbers(values, np.isnan(values) & ~text, text)


def words(column: Any) -> Words:
    """Return the words of ``column``, without blanks at the ends; a number counts as its decimal text."""
    column = _plain(column)
    if not _is_text(column.type):
        column = pc.cast(column, pa.string())
    coded = pc.utf8_trim_whitespace(column.cast(pa.string())).dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    found = tuple(coded.dictionary.to_pylist())
    if "" in found:
        codes[codes == found.index("")] = -1
    return Words(codes, found)


def _plain(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _is_text(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _mask(column: Any) -> NDArray[np.bool_]:
    return column.to_numpy(zero_copy_only=False).astype(bool)
