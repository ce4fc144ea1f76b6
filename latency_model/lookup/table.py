"""Rows of convolutions that are found by hashing, a million at a time, in a file that is mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns, Kind
from latency_model.environment import Environment
from latency_model.lookup.building import built
from latency_model.lookup.file import FORMAT_VERSION, VALUES, Parts, read_parts, write_parts
from latency_model.lookup.keys import FIELDS, bucket_of, fields_of
from latency_model.shapes import ConvShape

if TYPE_CHECKING:
    from latency_model.table import LatencyTable

__all__ = ["FORMAT_VERSION", "LookupResult", "LookupRow", "LookupTable"]

# Queries at a time: what one part needs in between stays in the processor's cache.
_PART = 1 << 14
_SHAPES = 4096

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LookupRow:
    """One row: a latency and its 95 % interval, as in the table that it comes from."""

    latency_us: float
    low_us: float
    high_us: float


@dataclass(frozen=True, eq=False)
class LookupResult:
    """What was found for ``n`` convolutions: arrays of shape (n,), NaN where ``found`` is False."""

    latency_us: Floats
    low_us: Floats
    high_us: Floats
    found: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.found)


@dataclass(frozen=True, eq=False)
class LookupTable(Mapping[ConvShape, LookupRow]):
    """Latencies of convolutions in one environment: exact lookups of many at once, from a mapped file.

    It holds the latency and its interval of each convolution, to the last bit as in the table that it was
    built from. Operators that are not convolutions, networks, failures, and what else a row of a
    ``LatencyTable`` says (quantiles, kernels, flags) are **not** in it. Keys are compared in full, so a
    convolution that was not measured is never mistaken for one that was. A row takes 28 bytes and 8 for each
    64-bit word of its key; keys are as wide as the largest sizes of the table need, up to seven words, and two
    (44 bytes a row) hold every usual table. At most 2**32 - 1 rows. Iteration is in the order of the file, which
    is that of the buckets; ``columns`` and ``latency_us`` share it.

    >>> table = LookupTable.load("rows.lookup")  # doctest: +SKIP
    >>> table.lookup(ConvColumns.of(shapes)).latency_us  # doctest: +SKIP
    """

    parts: Parts

    @classmethod
    def build(cls, table: LatencyTable) -> LookupTable:
        """Return the convolutions of ``table``."""
        rows = table.rows.values()
        low, high = [row.low_us for row in rows], [row.high_us for row in rows]
        latency = [row.latency_us for row in rows]
        columns = ConvColumns.of(list(table.rows))
        return cls.of(table.environment, columns, np.array(latency), np.array(low), np.array(high))

    @classmethod
    def of(
        cls,
        environment: Environment,
        columns: ConvColumns,
        latency_us: Floats,
        low_us: Floats,
        high_us: Floats,
    ) -> LookupTable:
        """Return a table of ``columns`` with their latencies and intervals, arrays of shape (n,).

        Rows that say the same twice become one. Raises ``TableError`` when two rows of one convolution
        disagree, when a latency is not finite and positive or outside its interval, and when the arrays are
        not of one length; ``InputError`` when a row is no convolution.
        """
        return cls(built(environment, columns, (latency_us, low_us, high_us)))

    def save(self, path: Path | str) -> None:
        """Write the table to ``path`` atomically."""
        write_parts(Path(path), self.parts)

    @classmethod
    def load(cls, path: Path | str, *, check: bool = True) -> LookupTable:
        """Map a table that ``save`` wrote; ``TableError`` when it is missing, damaged, foreign or too new.

        ``check`` compares the checksum, which reads the whole file once; without it a page is read when a
        lookup needs it, and damage inside the numbers goes unnoticed. The file may be deleted or replaced
        (by ``save``, which renames) while it is mapped; who shortens it in place ends this process.
        """
        return cls(read_parts(Path(path), check=check))

    def lookup(self, columns: ConvColumns) -> LookupResult:
        """Return latency and interval of each convolution, in order; NaN where the table has no such row.

        Raises ``InputError`` when a column holds no integers, or a kind beyond the kinds of ``columns``.
        """
        values = np.full((len(VALUES), len(columns)), np.nan)
        found = np.zeros(len(columns), dtype=np.bool_)
        fields = fields_of(columns, self._codes)
        for start in range(0, len(columns) if len(self) else 0, _PART):
            part = slice(start, start + _PART)
            places, rows = self._find([field[part] for field in fields])
            places += start
            found[places] = True
            for target, source in zip(values, self.parts.values, strict=True):
                target[places] = source[rows]
        latency, low, high = values
        return LookupResult(latency, low, high, found)

    @cached_property
    def _codes(self) -> dict[Kind, int]:
        return {kind: place for place, kind in enumerate(self.parts.kinds)}

    def _find(self, fields: list[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places of the keys that are in the table, and of each the row."""
        packing, starts, size = self.parts.packing, self.parts.starts, len(self)
        words = packing.words(fields)
        bucket = bucket_of(words, size).astype(np.int64)
        row = starts[bucket].astype(np.int64)
        bucket += 1
        end = np.where(bucket < size, starts[np.minimum(bucket, size - 1)], size)
        asked = np.flatnonzero(packing.fits(fields) & (row < end))
        row, end = row[asked], end[asked]
        found: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        while len(asked):
            same = np.ones(len(asked), dtype=np.bool_)
            for key, word in zip(self.parts.words, words, strict=True):
                same &= key[row] == word[asked]
            found.append((asked[same], row[same]))
            row += 1
            more = np.flatnonzero(~same & (row < end))
            asked, row, end = asked[more], row[more], end[more]
        if not found:
            return asked, asked
        return np.concatenate([places for places, _ in found]), np.concatenate([rows for _, rows in found])

    def __getitem__(self, shape: ConvShape) -> LookupRow:
        row = self._row(shape)
        if row is None:
            raise KeyError(shape)
        return LookupRow(*(float(values[row]) for values in self.parts.values))

    def __contains__(self, shape: object) -> bool:
        return isinstance(shape, ConvShape) and self._row(shape) is not None

    def _row(self, shape: ConvShape) -> int | None:
        code = self._codes.get(Kind.of(shape))
        fields = [*(getattr(shape, name) for name in FIELDS[:-1]), code]
        if code is None or not self.parts.packing.fits(fields):
            return None
        words, starts, size = self.parts.packing.words(fields), self.parts.starts, len(self)
        bucket = bucket_of(words, size)
        end = int(starts[bucket + 1]) if bucket + 1 < size else size
        for row in range(int(starts[bucket]), end):
            if all(key[row] == word for key, word in zip(self.parts.words, words, strict=True)):
                return row
        return None

    def __len__(self) -> int:
        return len(self.parts.starts)

    def __iter__(self) -> Iterator[ConvShape]:
        for start in range(0, len(self), _SHAPES):
            yield from self._columns(slice(start, start + _SHAPES))

    @property
    def columns(self) -> ConvColumns:
        """The convolutions as arrays, made anew at each call."""
        return self._columns(slice(None))

    def _columns(self, part: slice) -> ConvColumns:
        fields = self.parts.packing.fields([word[part] for word in self.parts.words])
        return ConvColumns(**dict(zip(FIELDS, fields, strict=True)), kinds=self.parts.kinds)

    @property
    def environment(self) -> Environment:
        """The environment in which the rows were measured."""
        return self.parts.environment

    @property
    def latency_us(self) -> Floats:
        """The latency of each of ``columns``, read-only when the table is a mapped file."""
        return self.parts.values[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: what the table takes of the memory when every page of it is there."""
        return sum(array.nbytes for array in self.parts.columns.values())
