"""Intervals of networks for both cases: the network's family was never measured, or others of it were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_model.conformal.families import Array, FamilyConformal
from latency_model.errors import InputError

__all__ = ["NetworkIntervals"]


@dataclass(frozen=True)
class NetworkIntervals:
    """``unseen`` rests on networks whose family was left out, ``known`` on networks left out one at a time.

    A model that was corrected by networks of a family errs less on its other networks, so that the two need
    residuals of their own. ``known`` is None in models that were saved before there was one.
    """

    unseen: FamilyConformal
    known: FamilyConformal | None = None

    @classmethod
    def fit(cls, family: Sequence[str], without_family: Array, without_network: Array) -> NetworkIntervals:
        """Return the intervals of networks: their families, and log(measured / predicted) of each, left out twice.

        Raises ``InputError`` like ``FamilyConformal.fit``.
        """
        return cls(FamilyConformal.fit(family, without_family), FamilyConformal.fit(family, without_network))

    def interval(
        self, value_us: float, *, family: str | None = None, confidence: float = 0.9
    ) -> tuple[float, float]:
        """Return (low_us, high_us) of a network that the model puts at ``value_us``.

        Without ``family`` it is taken to be of one that was never measured. Raises ``InputError`` for a family of
        which no network was measured.
        """
        if family is None:
            return self.unseen.interval(value_us, confidence=confidence)
        if self.known is None:
            raise InputError(
                "this model was saved without intervals of families; fit it again, or leave the family out"
            )
        if family not in self.known.sizes:
            raise InputError(
                f"no network of the family {family!r} was measured, only of {', '.join(sorted(self.known.sizes))}; "
                "leave the family out for the interval of an unseen one"
            )
        return self.known.interval(value_us, family, confidence)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "unseen": self.unseen.to_json(),
            "known": None if self.known is None else self.known.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkIntervals:
        """Return what ``to_json`` wrote, or what ``FamilyConformal.to_json`` did; ``InputError`` for damage."""
        if "unseen" not in data:
            return cls(FamilyConformal.from_json(data))
        known = data.get("known")
        return cls(
            FamilyConformal.from_json(data["unseen"]),
            None if known is None else FamilyConformal.from_json(known),
        )
