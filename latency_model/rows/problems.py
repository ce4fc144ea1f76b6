"""Rows of a file that cannot be used, by cause, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Problems", "counted", "numbered"]

_SHOWN_ROWS = 5
_SHOWN_CAUSES = 3


class Problems:
    """Collects which of ``count`` rows are ``bad``; of several causes of one row the first counts."""

    def __init__(self, count: int) -> None:
        self.bad: NDArray[np.bool_] = np.zeros(count, dtype=bool)
        self._found: list[tuple[str, NDArray[np.int64]]] = []

    def add(self, mask: NDArray[np.bool_], what: str) -> None:
        """Note that the rows of ``mask`` are bad: ``what`` reads on from "in row 3 "."""
        places = np.flatnonzero(mask & ~self.bad)
        if len(places):
            self._found.append((what, places))
            self.bad[places] = True

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def text(self) -> str:
        """What is wrong and where, like "in 2 rows batch is empty (rows 3, 7)"."""
        causes = [
            f"in {counted(len(places))} {what} ({numbered(places)})"
            for what, places in self._found[:_SHOWN_CAUSES]
        ]
        more = sum(len(places) for _, places in self._found[_SHOWN_CAUSES:])
        return ", ".join(causes) + (f", and {counted(more)} with other faults" if more else "")


def counted(rows: int, noun: str = "row") -> str:
    """Return a number with its noun: ``1 row``, ``2 rows``."""
    return f"{rows} {noun}{'s' * (rows != 1)}"


def numbered(places: Sequence[int] | NDArray[np.int64]) -> str:
    """Return row numbers for people: from 1, the header not counted, the first few of them."""
    shown = ", ".join(str(place + 1) for place in places[:_SHOWN_ROWS])
    more = len(places) - _SHOWN_ROWS
    return f"row{'s' * (len(places) > 1)} {shown}" + (f" and {more} more" if more > 0 else "")
