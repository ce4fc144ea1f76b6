"""Signed scores, sorted and thinned, and their finite-sample quantiles for any confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from latency_model.errors import InputError

__all__ = ["KEPT", "LEAST", "Scores", "check_confidence"]

Array = NDArray[np.float64]

# Fewer scores say nothing about a tail, not even with a normal distribution assumed.
LEAST = 8
# At most so many scores are kept, half of them for each tail.
KEPT = 1000
# So many of them at each end are the very last ones.
_EXACT = 100
# Guards ranks such as (n + 1) * 0.9 against the last bit of a float.
_FUZZ = 1e-9


def check_confidence(confidence: float) -> None:
    """Raise ``InputError`` unless ``confidence`` lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise InputError(f"a confidence lies between 0 and 1, not at {confidence}; use 0.9 for 90 %")


@dataclass(frozen=True, eq=False)
class Scores:
    """The order statistics of ``n`` signed scores: ``values[i]`` is the ``ranks[i]``-th smallest, from 1.

    Up to ``KEPT`` scores are kept as they are. Of more, the last 100 of each end are kept and ranks grow geometrically
    from each end to the middle; a quantile is then taken at the next kept rank *outwards*, which makes the
    chance of a miss at most 3 % (of itself) smaller than asked for and never larger, for up to a million scores.
    """

    n: int
    ranks: NDArray[np.int64]
    values: Array
    mean: float
    deviation: float

    def __post_init__(self) -> None:
        whole = len(self.ranks) == len(self.values) > 0 and self.ranks[0] == 1 and self.ranks[-1] == self.n
        rising = bool((np.diff(self.ranks) > 0).all() and (np.diff(self.values) >= 0).all())
        finite = bool(np.isfinite([self.mean, self.deviation, *self.values]).all())
        if not (whole and rising and finite and self.n >= LEAST and self.deviation >= 0):
            raise InputError("these are no sorted scores of an interval; fit the model again")

    @classmethod
    def of(cls, scores: Array) -> Scores:
        """Return the sorted, thinned ``scores``, shape (n,); ``InputError`` below ``LEAST`` or not finite."""
        scores = np.asarray(scores, dtype=float)
        n = len(scores)
        if n < LEAST:
            raise InputError(f"an interval needs at least {LEAST} out-of-fold predictions, not {n}")
        if not np.isfinite(scores).all():
            raise InputError("a score of an interval is not finite; check predictions and difficulties")
        ranks = np.arange(1, n + 1)
        if n > KEPT:
            inner = np.round(np.geomspace(_EXACT, n / 2, KEPT // 2 - _EXACT)).astype(np.int64)
            tail = np.unique(np.concatenate([np.arange(1, _EXACT + 1), inner]))
            ranks = np.unique(np.concatenate([tail, n + 1 - tail]))
        ordered = np.sort(scores)
        return cls(n, ranks, ordered[ranks - 1], float(scores.mean()), float(scores.std(ddof=1)))

    def supports(self, confidence: float) -> bool:
        """Whether ``n`` scores bound one side at ``confidence`` without an assumption: n >= c / (1 - c)."""
        return math.ceil((self.n + 1) * confidence - _FUZZ) <= self.n

    def upper(self, confidence: float) -> float:
        """Return what a new score stays at or below with at least ``confidence``, if exchangeable with these.

        It is the ceil((n + 1) * confidence)-th smallest score. Where there are too few for that (``supports``),
        the distribution-free bound is infinite; the rule here is then the larger of the largest score and the
        bound of a normal sample, mean + t(n - 1) * s * sqrt(1 + 1/n), which only holds as far as the scores are
        near normal.
        """
        check_confidence(confidence)
        rank = math.ceil((self.n + 1) * confidence - _FUZZ)
        if rank > self.n:
            return max(float(self.values[-1]), self.mean + self._reach(confidence))
        return float(self.values[np.searchsorted(self.ranks, rank)])

    def lower(self, confidence: float) -> float:
        """Return what a new score stays at or above with at least ``confidence``; like ``upper``."""
        check_confidence(confidence)
        rank = self.n + 1 - math.ceil((self.n + 1) * confidence - _FUZZ)
        if rank < 1:
            return min(float(self.values[0]), self.mean - self._reach(confidence))
        return float(self.values[np.searchsorted(self.ranks, rank, side="right") - 1])

    def _reach(self, confidence: float) -> float:
        t = float(stdtrit(self.n - 1, confidence))
        return t * self.deviation * math.sqrt(1 + 1 / self.n)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "n": self.n,
            "ranks": None if self.n <= KEPT else self.ranks.tolist(),
            "values": self.values.tolist(),
            "mean": self.mean,
            "deviation": self.deviation,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scores:
        """Return the scores that ``to_json`` wrote; ``InputError`` when they are damaged."""
        try:
            n = int(data["n"])
            ranks = np.arange(1, n + 1) if data["ranks"] is None else np.array(data["ranks"], dtype=np.int64)
            values = np.array(data["values"], dtype=float)
            return cls(n, ranks, values, float(data["mean"]), float(data["deviation"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"the scores of an interval are damaged ({error}); fit the model again"
            ) from error
