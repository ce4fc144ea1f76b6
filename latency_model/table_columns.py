"""Rows of a latency table to Arrow columns and back, a column at a time: what makes large tables quick to read.

Reading is the hot path: 100,000 rows as Python dictionaries take four seconds, by columns one. The text of a
configuration ends in a part that few rows of a table differ in (kernel, stride, pattern, …), so each such
ending is parsed once.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from operator import attrgetter
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from latency_model.measurement import Candidate, Measurement
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

__all__ = ["MEASURED", "ShapeReader", "in_order", "measured_columns", "measurements", "no_collection"]

# In the order of the fields of `Measurement`.
MEASURED: tuple[tuple[str, pa.DataType], ...] = (
    ("latency_us", pa.float64()),
    ("low_us", pa.float64()),
    ("high_us", pa.float64()),
    ("p5_us", pa.float64()),
    ("p25_us", pa.float64()),
    ("p75_us", pa.float64()),
    ("p95_us", pa.float64()),
    ("min_us", pa.float64()),
    ("samples", pa.int32()),
    ("method", pa.string()),
    ("kernels", pa.list_(pa.struct([("name", pa.string()), ("share", pa.float64())]))),
    ("cold_us", pa.float64()),
    ("boundary_us", pa.float64()),
    ("error", pa.float64()),
    (
        "candidates",
        pa.list_(pa.struct([("kernels", pa.string()), ("latency_us", pa.float64()), ("builds", pa.int32())])),
    ),
    ("sm_clock_mhz", pa.float64()),
    ("temperature_c", pa.float64()),
    ("power_w", pa.float64()),
    ("note", pa.string()),
    ("flags", pa.list_(pa.string())),
    ("run_id", pa.string()),
    ("measured_at", pa.string()),
)
_TEXTS = {"method", "note", "run_id", "measured_at"}
# Columns that version 1 lacks are null there; these fields have an empty value of their own.
_EMPTY: Mapping[str, Any] = {"note": "", "run_id": "", "measured_at": ""}

_Config = TypeVar("_Config", ConvShape, OpShape)


@contextmanager
def no_collection() -> Iterator[None]:
    """Hold the search for reference cycles while a million objects are made that all stay: a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def in_order(configs: Iterable[_Config]) -> list[_Config]:
    """Return configurations in ascending order; the same as ``sorted``, several times as quick."""
    found = list(configs)
    if not found:
        return found
    return sorted(found, key=attrgetter(*(field.name for field in dataclasses.fields(found[0]))))


def measured_columns(rows: Sequence[Measurement | None]) -> dict[str, pa.Array]:
    """Return one Arrow array per field of ``Measurement``, in its order; None becomes a row of nulls."""
    columns = {}
    for name, kind in MEASURED:
        values: list[Any] = [None if row is None else getattr(row, name) for row in rows]
        if name == "candidates":
            values = [v and [(c.kernels, c.latency_us, c.builds) for c in v] for v in values]
        columns[name] = pa.array(values, kind)
    return columns


def measurements(table: pa.Table) -> list[Measurement]:
    """Return the measurements of the rows of ``table``; columns that it lacks count as empty."""
    columns: list[Iterable[Any]] = []
    for name, _ in MEASURED:
        if name not in table.column_names:
            columns.append(repeat(() if name in ("kernels", "candidates", "flags") else _EMPTY.get(name)))
            continue
        column = table.column(name).combine_chunks()
        if name == "kernels":
            columns.append(_slices(column, list(zip(*_fields(column, "name", "share"), strict=True))))
        elif name == "candidates":
            fields = _fields(column, "kernels", "latency_us", "builds")
            columns.append(_slices(column, list(map(Candidate, *fields))))
        elif name == "flags":
            columns.append(_slices(column, _texts(column.values)))
        elif name in _TEXTS:
            columns.append(_texts(column.fill_null("") if name in _EMPTY else column))
        else:
            columns.append(column.to_pylist())
    return list(map(Measurement, *columns)) if table.num_rows else []


def _fields(column: pa.Array, *names: str) -> list[list[Any]]:
    parts = [column.values.field(name) for name in names]
    return [_texts(part) if pa.types.is_string(part.type) else part.to_pylist() for part in parts]


def _texts(column: pa.Array) -> list[Any]:
    """Return strings, equal ones as one object: a table has few kernel names and many rows."""
    coded = column.dictionary_encode()
    words = coded.dictionary.to_pylist()
    return [None if place is None else words[place] for place in coded.indices.to_pylist()]


def _slices(column: pa.Array, items: list[Any]) -> list[tuple[Any, ...]]:
    """Return each list of a list column as a tuple of ``items``, which are those of all its lists."""
    starts = column.offsets.to_pylist()[:-1]
    lengths = pc.list_value_length(column).fill_null(0).to_pylist()
    return [
        tuple(items[start : start + length]) if length else ()
        for start, length in zip(starts, lengths, strict=True)
    ]


class ShapeReader:
    """Parses many convolution texts of one table: ``ConvShape.parse``, with what few rows differ in kept."""

    def __init__(self) -> None:
        self._endings: dict[str, tuple[Any, ...]] = {}

    def __call__(self, text: str) -> ConvShape:
        """Return the shape that ``text`` names; raises ``InputError`` as ``ConvShape.parse`` does."""
        sizes, _, rest = text.partition(" ->")
        out, _, ending = rest.partition(" ")
        numbers = sizes.split("x")
        known = self._endings.get(ending)
        if known is None or len(numbers) != 4 or not ("".join(numbers) + out).isdecimal():
            shape = ConvShape.parse(text)
            if text == shape.text:
                self._endings[ending] = tuple(getattr(shape, name) for name in _ENDING)
            return shape
        batch, channels, height, width = map(int, numbers)
        return ConvShape(batch, channels, height, width, int(out), *known)


_ENDING = ("kernel", "stride", "padding", "dilation", "groups", "pattern", "precision", "layout")
