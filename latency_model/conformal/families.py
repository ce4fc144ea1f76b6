"""Intervals of whole networks: families are the exchangeable units, not networks.

Networks of one family share an error, so a hundred networks of eight families say little more about a ninth family
than eight numbers do. What can be promised of an unseen family, for K families drawn alike:

- Distribution-free: one random network of each family (Dunn, Wasserman and Ramdas 2022, single subsampling), or all
  networks with weight 1 / ((K + 1) N_k) each (Lee, Barber and Willett 2023, hierarchical conformal prediction),
  cover at least the confidence, but with K + 1 < 1 / (1 - confidence) they are infinite: 90 % needs 9 families, or
  19 when each side is bounded by itself.
- Pooled residuals of all networks: no guarantee; they cover too little wherever families differ.
- The interval here: a prediction interval of the random-effects model log ratio = mean + family + network, with
  Student's t. It needs near-normal effects, is finite from two families on, and in the simulation of
  ``benchmarks/conformal_simulation.py`` it was the only one that stayed near the confidence for 8 to 14 families.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from latency_model.conformal.scores import check_confidence
from latency_model.errors import InputError

__all__ = ["FamilyConformal"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class FamilyConformal:
    """What the log ratios measured / predicted of left-out networks say of another network.

    ``centre`` is the mean of the family means, ``between`` their variance (that of family *means*, networks'
    scatter included), ``within`` the variance inside families with ``freedom`` degrees of freedom, ``inverse`` the
    mean of 1 / networks over families. ``means`` and ``sizes`` are those of the known families.
    """

    centre: float
    between: float
    within: float
    freedom: int
    inverse: float
    means: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = (self.centre, self.between, self.within, self.inverse, *self.means.values())
        if not all(math.isfinite(number) for number in numbers) or min(self.between, self.within) < 0:
            raise InputError("the intervals of networks are damaged; fit the model again")
        if self.freedom < 0 or len(self.means) < 2 or set(self.means) != set(self.sizes):
            raise InputError("the intervals of networks are damaged; fit the model again")
        object.__setattr__(self, "means", MappingProxyType(dict(self.means)))
        object.__setattr__(self, "sizes", MappingProxyType(dict(self.sizes)))

    @classmethod
    def fit(cls, family: Sequence[str], log_ratio: Array) -> FamilyConformal:
        """Return the intervals that left-out networks call for: their families, and log(measured / predicted).

        For networks of *unseen* families each prediction must come from a model that knew no network of the
        family (leave one family out). ``interval`` of a *known* family shifts by the family's mean: give it values
        of the same kind, from a model that was not corrected by that family. Raises ``InputError`` for fewer than two
        families, for lengths that differ, and for values that are not finite.
        """
        ratios = np.asarray(log_ratio, dtype=float)
        if ratios.ndim != 1 or len(family) != len(ratios) or not np.isfinite(ratios).all():
            raise InputError("intervals of networks need one finite log ratio per network, and its family")
        names, inverse, sizes = np.unique(
            np.asarray(family, dtype=str), return_inverse=True, return_counts=True
        )
        if len(names) < 2:
            raise InputError(
                f"networks of {len(names)} families cannot say how families differ; measure networks of two or more"
            )
        means = np.bincount(inverse, weights=ratios) / sizes
        freedom = len(ratios) - len(names)
        squares = float(((ratios - means[inverse]) ** 2).sum())
        return cls(
            centre=float(means.mean()),
            between=float(means.var(ddof=1)),
            within=squares / freedom if freedom else 0.0,
            freedom=freedom,
            inverse=float((1 / sizes).mean()),
            means=dict(zip(names.tolist(), means.tolist(), strict=True)),
            sizes=dict(zip(names.tolist(), sizes.tolist(), strict=True)),
        )

    def interval(
        self, value_us: float, family: str | None = None, confidence: float = 0.9
    ) -> tuple[float, float]:
        """Return (low_us, high_us) of a network that the model puts at ``value_us``.

        ``family`` is None, or a name that no measured network had, for an unseen family.
        """
        check_confidence(confidence)
        centre, deviation, freedom = self._spread(family)
        half = float(stdtrit(freedom, (1 + confidence) / 2)) * deviation
        return _positive(value_us) * math.exp(centre - half), value_us * math.exp(centre + half)

    def upper(self, value_us: float, family: str | None = None, confidence: float = 0.9) -> float:
        """Return what the network's latency stays at or below with ``confidence``: one side, microseconds."""
        check_confidence(confidence)
        centre, deviation, freedom = self._spread(family)
        return _positive(value_us) * math.exp(centre + float(stdtrit(freedom, confidence)) * deviation)

    def _spread(self, family: str | None) -> tuple[float, float, float]:
        """Return centre, standard deviation and degrees of freedom of a new network's log ratio.

        An unseen family: the mean of K family means has variance between / K; a new network differs from the
        mean of a family of its own by between, plus the part of the scatter of networks that averaging took
        out of the means. The degrees of freedom of the sum are Satterthwaite's (1946).

        A known one: its mean, shrunk to the centre as the estimated variances say (the usual linear predictor),
        with the variance that its own mean would have: where shrinking is right, that is more than needed.
        Never wider than an unseen one.
        """
        count = len(self.means)
        first, second = self.between * (1 + 1 / count), self.within * (1 - self.inverse)
        freedom = _satterthwaite((first, count - 1), (second, self.freedom))
        unseen = math.sqrt(first + second)
        if family is None or family not in self.means or not self.freedom:
            return self.centre, unseen, freedom
        noise = self.within / self.sizes[family]
        real = max(0.0, self.between - self.within * self.inverse)
        share = real / (real + noise) if real + noise > 0 else 0.0
        centre = self.centre + share * (self.means[family] - self.centre)
        known = math.sqrt(self.within + noise)
        return (centre, known, self.freedom) if known <= unseen else (centre, unseen, freedom)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "centre": self.centre,
            "between": self.between,
            "within": self.within,
            "freedom": self.freedom,
            "inverse": self.inverse,
            "means": dict(self.means),
            "sizes": dict(self.sizes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FamilyConformal:
        """Return what ``to_json`` wrote; ``InputError`` when it is damaged."""
        try:
            return cls(
                centre=float(data["centre"]),
                between=float(data["between"]),
                within=float(data["within"]),
                freedom=int(data["freedom"]),
                inverse=float(data["inverse"]),
                means={str(name): float(value) for name, value in data["means"].items()},
                sizes={str(name): int(value) for name, value in data["sizes"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the intervals of networks are damaged ({error!r}); fit the model again"
            ) from error


def _satterthwaite(*parts: tuple[float, int]) -> float:
    """Return the degrees of freedom of a sum of independent variances, each with its own."""
    total = sum(variance for variance, _ in parts)
    if total <= 0:
        return 1.0
    return total**2 / sum(variance**2 / freedom for variance, freedom in parts if variance > 0)


def _positive(value_us: float) -> float:
    if not (math.isfinite(value_us) and value_us > 0):
        raise InputError(f"an interval needs a positive latency, not {value_us} us")
    return value_us
