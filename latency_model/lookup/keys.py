"""Convolutions as a few 64-bit words, and the bucket in which such a key is looked for.

Every function takes Python integers as well as uint64 arrays, so that one lookup and a million go the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns, Kind
from latency_model.errors import InputError

__all__ = ["FIELDS", "MOST_ROWS", "Packing", "bucket_of", "fields_of", "mixed"]

# The parts of a key, in the order in which they are packed; ``kind`` is a place in the table's list of kinds.
FIELDS = ("batch", "in_channels", "height", "width", "out_channels", "groups", "kind")
# Places of rows and buckets are 32-bit numbers.
MOST_ROWS = 2**32 - 1

_WORD = 64
_MASK = 2**64 - 1

Words = NDArray[np.uint64]
# A Python integer, or an array of them.
_N = TypeVar("_N", int, Any)


def fields_of(columns: ConvColumns, codes: Mapping[Kind, int]) -> list[NDArray[np.int64]]:
    """Return the arrays of ``FIELDS``, kinds as ``codes`` numbers them, -1 for others.

    Raises ``InputError`` for numbers that are no integers and for kinds that ``columns`` does not have.
    """
    for name in FIELDS:
        if (array := np.asarray(getattr(columns, name))).dtype.kind not in "iu":
            raise InputError(f"the column {name} of convolutions holds {array.dtype}, not integers")
    kind = columns.kind
    if len(columns) and not 0 <= kind.min() <= kind.max() < len(columns.kinds):
        raise InputError(f"the column kind holds places beyond the {len(columns.kinds)} kinds of the columns")
    numbers = np.array([codes.get(known, -1) for known in columns.kinds], dtype=np.int64)
    sizes = [getattr(columns, name).astype(np.int64, copy=False) for name in FIELDS[:-1]]
    return [*sizes, numbers[kind] if len(columns) else kind.astype(np.int64)]


@dataclass(frozen=True, slots=True)
class Packing:
    """How the numbers of a key share 64-bit words: ``bits`` of each field, as wide as a table needs them.

    No field lies across two words. What does not fit is in no table of this packing: it is told by ``fits``,
    never cut off.
    """

    bits: tuple[int, ...]
    count: int = field(init=False)
    _places: tuple[tuple[int, int], ...] = field(init=False)

    def __post_init__(self) -> None:
        if len(self.bits) != len(FIELDS) or not all(0 < bits < _WORD for bits in self.bits):
            raise InputError(f"a key has {len(FIELDS)} fields of 1 to 63 bits, not {self.bits}")
        places, word, used = [], 0, 0
        for bits in self.bits:
            if used + bits > _WORD:
                word, used = word + 1, 0
            places.append((word, used))
            used += bits
        object.__setattr__(self, "count", word + 1)
        object.__setattr__(self, "_places", tuple(places))

    @classmethod
    def of(cls, fields: Sequence[NDArray[np.int64]]) -> Packing:
        """Return the narrowest packing that holds ``fields``, arrays of numbers that are not negative."""
        return cls(tuple(max(1, int(values.max(initial=0)).bit_length()) for values in fields))

    def fits(self, fields: Sequence[_N]) -> _N:
        """Return whether every field is within its bits; negative numbers are not."""
        fit = fields[0] >> self.bits[0] == 0
        for values, bits in zip(fields[1:], self.bits[1:], strict=True):
            fit = fit & (values >> bits == 0)
        return fit

    def words(self, fields: Sequence[_N]) -> list[_N]:
        """Return the words of keys that fit: equal exactly where all fields are; of others, anything."""
        words: list[_N] = [0] * self.count
        for values, (word, shift) in zip(fields, self._places, strict=True):
            bits = values.view(np.uint64) if isinstance(values, np.ndarray) else values
            words[word] = words[word] | (bits << shift)
        return words

    def fields(self, words: Sequence[Words]) -> list[NDArray[np.int64]]:
        """Return the fields of keys; the inverse of ``words``."""
        return [
            ((words[word] >> shift) & (2**bits - 1)).astype(np.int64)
            for bits, (word, shift) in zip(self.bits, self._places, strict=True)
        ]


def mixed(words: Sequence[_N]) -> _N:
    """Return 64 bits that look random and depend on every bit of ``words``.

    The finaliser of SplitMix64 after each word (Steele, Lea, Flood: Fast splittable pseudorandom number
    generators, OOPSLA 2014; constants: Stafford's variant 13).
    """
    found: _N = 0x9E3779B97F4A7C15
    for word in words:
        found = found ^ word
        found = ((found ^ (found >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        found = ((found ^ (found >> 27)) * 0x94D049BB133111EB) & _MASK
        found = found ^ (found >> 31)
    return found


def bucket_of(words: Sequence[_N], buckets: int) -> _N:
    """Return the bucket, 0 to ``buckets - 1``, of each key; ``buckets`` is at most ``MOST_ROWS``.

    A product in place of a remainder (Lemire: Fast random integer generation in an interval, 2019).
    """
    return ((mixed(words) >> 32) * buckets) >> 32
