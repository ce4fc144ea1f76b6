"""A correction that is a sum over the operators of a network: what rows timed with warm caches leave out.

A row is timed warm: copies of an operator read one input again and again. In a network the weights have not been
read since the last run and may have left a cache, the caches hold what lies between, and each operator has to be
called. So a sum of rows is too small where little is computed for each byte, and by different amounts:

    operator = slope[part] * row + per_operator + cold weights + activations          latency = sum + call

Cold weights cost per megabyte, as far as all weights of the network exceed the second and the third level of
cache, and of an operator only up to ``Caches.streamed``: the row of one with more was not timed with warm weights.
All terms rise with the channel counts, so a corrected monotone matrix is monotone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.corrections.moved import PARTS, Caches, Moved, moved, moved_at_counts, part_of
from latency_model.errors import InputError
from latency_model.network import OpSite, Site
from latency_model.ops import Config

__all__ = ["TERMS", "TermsCorrection", "terms"]

Array = NDArray[np.float64]
KIND, FORMAT_VERSION = "terms", 1
# What is added to the scaled row of an operator: the names of the coefficients, microseconds each or per megabyte.
TERMS = (
    "per_operator_us",
    "cold_l2_us_per_mb",
    "cold_l3_us_per_mb",
    "activations_us_per_mb",
    "depthwise_us_per_mb",
)
_MB = 1e6
_UNMEASURED = 0.12


def terms(part: str, size: Moved, cold: tuple[float, float], caches: Caches) -> tuple[Any, ...]:
    """Return what the coefficients ``TERMS`` of one operator are multiplied with; arrays where ``size`` has them."""
    weights = np.minimum(size.weights, caches.streamed) / _MB
    activations = size.activations / _MB
    return 1.0, weights * cold[0], weights * cold[1], activations, activations * (part == "depthwise")


@dataclass(frozen=True)
class TermsCorrection:
    """Slopes by part, terms per operator, and ``call_us`` once, fitted on ``networks`` networks.

    ``spread`` is the relative root mean square of what remained of families that the fit had not seen. All terms
    are at least 0 and all slopes positive; the default corrects nothing.
    """

    slopes: Mapping[str, float] = field(default_factory=dict)
    per_operator_us: float = 0.0
    cold_l2_us_per_mb: float = 0.0
    cold_l3_us_per_mb: float = 0.0
    activations_us_per_mb: float = 0.0
    depthwise_us_per_mb: float = 0.0
    call_us: float = 0.0
    networks: int = 0
    spread: float = _UNMEASURED
    caches: Caches = field(default_factory=Caches)

    def __post_init__(self) -> None:
        slopes = {part: float(self.slopes.get(part, 1.0)) for part in PARTS}
        if unknown := set(self.slopes) - set(PARTS):
            raise InputError(f"a correction has no part {sorted(unknown)[0]!r}; it has {', '.join(PARTS)}")
        object.__setattr__(self, "slopes", MappingProxyType(slopes))
        added = (*self.coefficients, self.call_us, self.spread)
        if (
            not all(map(math.isfinite, (*slopes.values(), *added)))
            or min(slopes.values()) <= 0
            or min(added) < 0
        ):
            raise InputError("not a correction of networks: a slope is not positive, or a term is below 0")

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The coefficients of ``TERMS``, in that order."""
        return tuple(getattr(self, name) for name in TERMS)

    def operator_us(self, shape: Config, row_us: float, *, total_weight_bytes: float) -> float:
        """Return an operator's share of a network's latency, of which ``call_us`` is the rest.

        ``row_us`` is its row, and ``total_weight_bytes`` the weights of the whole network (``weight_bytes``).
        """
        part, cold = part_of(shape), self.caches.cold(total_weight_bytes)
        added = zip(self.coefficients, terms(part, moved(shape), cold, self.caches), strict=True)
        return self.slopes[part] * row_us + math.fsum(factor * float(value) for factor, value in added)

    def matrix(self, site: Site | OpSite, matrix: Array, *, total_weight_bytes: float) -> Array:
        """Return ``operator_us`` at all channel counts: of a matrix of rows by (inputs, outputs), or a line.

        Count 0 costs 0. ``total_weight_bytes`` is that of one network for all counts: at full width it overstates
        what a much smaller network pays for cold weights.
        """
        part, cold = part_of(site.shape), self.caches.cold(total_weight_bytes)
        found = self.slopes[part] * np.asarray(matrix, dtype=np.float64)
        size = moved_at_counts(site, found.shape)
        for factor, value in zip(self.coefficients, terms(part, size, cold, self.caches), strict=True):
            found = found + factor * value
        for axis in range(found.ndim):
            np.moveaxis(found, axis, 0)[0] = 0.0
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "slopes": dict(self.slopes),
            **dict(zip(TERMS, self.coefficients, strict=True)),
            "call_us": self.call_us,
            "networks": self.networks,
            "spread": self.spread,
            "l2_bytes": self.caches.l2,
            "l3_bytes": self.caches.l3,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TermsCorrection:
        """Return what ``to_json`` wrote; ``InputError`` for a later version, or when it is damaged."""
        try:
            if data["format_version"] > FORMAT_VERSION:
                raise InputError(
                    "the correction of networks is of a later version; update with: pip install -U gharial"
                )
            return cls(
                slopes={str(part): float(value) for part, value in data["slopes"].items()},
                **{name: float(data[name]) for name in (*TERMS, "call_us", "spread")},
                networks=int(data["networks"]),
                caches=Caches(float(data["l2_bytes"]), float(data["l3_bytes"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the correction of networks is damaged ({error!r}); fit the model again"
            ) from error
