"""Intervals of single rows from out-of-fold predictions: normalised, signed, group-wise conformal prediction.

What is promised, for exchangeable rows:

- A calibration set apart from the training set (split conformal, Papadopoulos et al. 2002): coverage of at least
  the confidence, on average over calibration sets; within a group too where the group has scores of its own
  (Mondrian, Vovk et al. 2005). Each side is calibrated by itself at half of the miss, as in the asymmetric form of
  conformalised quantile regression (Romano, Patterson and Candes 2019), so the two together keep it.
- Out-of-fold residuals of K folds around the prediction of a model of *all* rows, which is what a shipped model
  does: no guarantee without assumptions (Barber, Candes, Ramdas and Tibshirani 2021 give the jackknife's
  counter-example); near the confidence when leaving a fold out changes predictions little, and mostly above
  it, because a model of all rows errs less than one of (K - 1)/K of them. ``cv_plus`` has the
  guarantee for K folds, and is wider: on four
  devices 95 to 96 % of rows at 90 %, against 90 to 91 % (``benchmarks/conformal_rows.py``).
- Rows that are not exchangeable with the calibration rows (another network, beyond the measured sizes): none;
  ``stretch`` widens them by the caller's rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.conformal.scores import Scores, check_confidence
from latency_model.errors import InputError

__all__ = ["Conformal", "size_class"]

Array = NDArray[np.float64]
Labels = Sequence[str] | NDArray[Any]

# A quantile at 90 % of so many scores covers 90 +- 2.4 %: fewer are left to the pooled scores.
_LEAST_GROUP = 150


@dataclass(frozen=True)
class Conformal:
    """Scores ``log(measured / predicted) / difficulty`` of left-out rows: all of them, and those of each group.

    >>> predicted = np.full(99, 10.0)
    >>> measured = predicted * np.exp(np.linspace(-0.49, 0.49, 99))
    >>> low, high = Conformal.fit(measured, predicted).interval(np.array([100.0]), confidence=0.9)
    >>> np.round([low[0], high[0]], 1).tolist()
    [63.8, 156.8]
    """

    pooled: Scores
    groups: Mapping[str, Scores] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))

    @classmethod
    def fit(
        cls,
        measured_us: Array,
        predicted_us: Array,
        difficulty: Array | None = None,
        group: Labels | None = None,
        *,
        least: int = _LEAST_GROUP,
    ) -> Conformal:
        """Return the intervals that rows *not* used for their own ``predicted_us`` call for; all shapes (n,).

        ``difficulty`` is how far off each prediction is expected to be, relative, in any unit (1 if not given).
        ``group`` must be known without the measurement (a size class of the *prediction*, a kernel family as
        predicted); groups of fewer than ``least`` rows are left to the pooled scores. Raises ``InputError`` for
        values that are not positive and finite, for different lengths, and for fewer than 8 rows.
        """
        measured, predicted = _positive(measured_us, "measured_us"), _positive(predicted_us, "predicted_us")
        _same_length(measured, predicted)
        scores = np.log(measured / predicted) / _difficulty(difficulty, len(measured))
        groups: dict[str, Scores] = {}
        if group is not None:
            _same_length(measured, np.asarray(group))
            names, inverse, counts = np.unique(
                np.asarray(group, dtype=str), return_inverse=True, return_counts=True
            )
            for place, name in enumerate(names):
                if counts[place] >= least:
                    groups[str(name)] = Scores.of(scores[inverse == place])
        return cls(Scores.of(scores), groups)

    def interval(
        self,
        predicted_us: Array,
        difficulty: Array | None = None,
        group: Labels | None = None,
        *,
        confidence: float = 0.9,
        stretch: Array | float = 1.0,
    ) -> tuple[Array, Array]:
        """Return (low_us, high_us), each of shape (m,), that hold a row's latency with ``confidence``.

        Each side misses with half of ``1 - confidence``. ``stretch`` multiplies the difficulty, per row or for
        all: above 1 for rows unlike those that were measured. A group without enough scores of its own for this
        confidence uses the pooled ones; where these are too few as well, see ``Scores.upper`` and ``guaranteed``.
        Raises ``InputError`` for values that are not positive and finite and for a confidence outside (0, 1).
        """
        check_confidence(confidence)
        side = (1 + confidence) / 2
        predicted, scale = self._scale(predicted_us, difficulty, stretch)
        low, high = self._bounds(group, len(predicted), side)
        return predicted * np.exp(low * scale), predicted * np.exp(high * scale)

    def upper(
        self,
        predicted_us: Array,
        difficulty: Array | None = None,
        group: Labels | None = None,
        *,
        confidence: float = 0.9,
        stretch: Array | float = 1.0,
    ) -> Array:
        """Return what a row's latency stays at or below with ``confidence``: one side, shape (m,)."""
        check_confidence(confidence)
        predicted, scale = self._scale(predicted_us, difficulty, stretch)
        _, high = self._bounds(group, len(predicted), confidence)
        return predicted * np.exp(high * scale)

    def guaranteed(self, confidence: float, group: str | None = None) -> bool:
        """Whether there are scores enough for an interval at ``confidence`` without assuming a distribution."""
        check_confidence(confidence)
        return self._scores(group, (1 + confidence) / 2).supports((1 + confidence) / 2)

    def _scores(self, group: str | None, side: float) -> Scores:
        own = None if group is None else self.groups.get(group)
        return own if own is not None and own.supports(side) else self.pooled

    def _bounds(self, group: Labels | None, count: int, side: float) -> tuple[Array, Array]:
        if group is None:
            return np.full(count, self.pooled.lower(side)), np.full(count, self.pooled.upper(side))
        if len(group) != count:
            raise InputError(f"{count} rows have {len(group)} groups; give one group per row")
        names, inverse = np.unique(np.asarray(group, dtype=str), return_inverse=True)
        scores = [self._scores(str(name), side) for name in names]
        low, high = ([s.lower(side) for s in scores], [s.upper(side) for s in scores])
        return np.array(low, dtype=float)[inverse], np.array(high, dtype=float)[inverse]

    def _scale(
        self, predicted_us: Array, difficulty: Array | None, stretch: Array | float
    ) -> tuple[Array, Array]:
        predicted = _positive(predicted_us, "predicted_us")
        scale = _difficulty(difficulty, len(predicted))
        stretched = _positive(np.broadcast_to(np.asarray(stretch, dtype=float), predicted.shape), "stretch")
        return predicted, scale * stretched

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "pooled": self.pooled.to_json(),
            "groups": {name: scores.to_json() for name, scores in self.groups.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Conformal:
        """Return what ``to_json`` wrote; ``InputError`` when it is damaged."""
        try:
            groups = {str(name): Scores.from_json(scores) for name, scores in data["groups"].items()}
            return cls(Scores.from_json(data["pooled"]), groups)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the intervals are damaged ({error!r}); fit the model again") from error


def size_class(predicted_us: Array) -> NDArray[np.str_]:
    """Return the size class of each prediction: the quarter decade that it lies in, such as ``10^1.25 us``."""
    quarter = np.floor(4 * np.log10(_positive(predicted_us, "predicted_us"))) / 4
    names, inverse = np.unique(quarter, return_inverse=True)
    return np.array([f"10^{name:.2f} us" for name in names], dtype=str)[inverse]


def _difficulty(difficulty: Array | None, count: int) -> Array:
    if difficulty is None:
        return np.ones(count)
    found = _positive(difficulty, "difficulty")
    if len(found) != count:
        raise InputError(f"{count} rows have {len(found)} difficulties; give one per row")
    return found


def _positive(values: Array, name: str) -> Array:
    found = np.asarray(values, dtype=float)
    if found.ndim != 1 or not (np.isfinite(found).all() and (found > 0).all()):
        raise InputError(f"{name} must be a line of positive, finite numbers")
    return found


def _same_length(one: NDArray[Any], other: NDArray[Any]) -> None:
    if len(one) != len(other):
        raise InputError(
            f"the columns of an interval have {len(one)} and {len(other)} rows; give one per row"
        )
