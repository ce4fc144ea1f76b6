"""From the sum of kernels to a whole network: a slope, a cost per launch and an offset, only as far as needed.

``latency = slope * sum + per_kernel_us * kernels + offset_us``. The weights minimise the squared relative
residuals plus a pull to (1, 0, 0), none below 0. Whether there is a correction at all is chosen by leaving out one
family at a time: it must lower that error clearly, so that sums that are right already stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from latency_model.errors import InputError
from latency_model.network import OpSite, Site
from latency_model.ops import Config

__all__ = ["NetworkCorrection", "fit_network_correction"]

FORMAT_VERSION = 2  # 1 is what ``latency_model.correction`` writes: it has no number and no launches
Array = NDArray[np.float64]
# How far the truth typically is from a plain sum on a device of which no network was measured, and the smallest
# spread that is ever reported: two runs of one network differ by about as much.
_UNMEASURED, _LEAST_SPREAD = 0.12, 0.02
# Typical size of each term over devices (a slope off by 0.2, a launch of half a microsecond, 20 us to start),
# and of the relative residuals: their ratio is the pull to (1, 0, 0).
_TYPICAL = np.array([0.2, 0.5, 20.0])
_RESIDUAL = 0.04
# The free terms: none or all. All must beat none by this factor. (Choices between them changed with every family
# left out, and were no better: the pull already keeps small what the networks do not tell.)
_CHOICES: tuple[tuple[int, ...], ...] = ((), (0, 1, 2))
_CLEARLY = 0.97
_LEAST_SLOPE = 0.1


@dataclass(frozen=True)
class NetworkCorrection:
    """``slope * sum + per_kernel_us * kernels + offset_us``, fitted on ``networks`` networks (0: none).

    ``spread`` is the relative root mean square of what remained of families that the fit had not seen, and
    ``bias`` their mean signed error. ``families`` has the spread of each family that was held out.
    """

    slope: float = 1.0
    per_kernel_us: float = 0.0
    offset_us: float = 0.0
    networks: int = 0
    spread: float = _UNMEASURED
    bias: float = 0.0
    families: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "families", MappingProxyType(dict(self.families)))
        values = (self.slope, self.per_kernel_us, self.offset_us, self.spread, self.bias)
        wrong = not all(math.isfinite(v) for v in (*values, *self.families.values()))
        if wrong or self.slope <= 0 or min(self.per_kernel_us, self.offset_us, self.spread) < 0:
            raise InputError(
                f"not a correction of networks: slope {self.slope}, {self.per_kernel_us} us per kernel, "
                f"offset {self.offset_us} us"
            )

    def apply(self, sum_us: float, kernels: float = 0.0) -> float:
        """Return the latency of a network whose ``kernels`` launches sum to ``sum_us``."""
        return self.slope * sum_us + self.per_kernel_us * kernels + self.offset_us

    @property
    def call_us(self) -> float:
        """What a network costs beyond its operators, once: the offset."""
        return self.offset_us

    def operator_us(
        self,
        shape: Config | None,  # noqa: ARG002 - one signature for all
        row_us: float,
        *,
        total_weight_bytes: float = 0.0,  # noqa: ARG002 - one signature for all
        kernels: float = 1.0,
    ) -> float:
        """Return the share of an operator with the row ``row_us`` that is ``kernels`` launches."""
        return self.slope * row_us + self.per_kernel_us * kernels

    def matrix(
        self,
        site: Site | OpSite,  # noqa: ARG002 - one signature for all
        matrix: Array,
        *,
        total_weight_bytes: float = 0.0,  # noqa: ARG002 - one signature for all
        kernels: float = 1.0,
    ) -> Array:
        """Return ``operator_us`` at all channel counts of a site whose rows are ``matrix``; count 0 costs 0."""
        found = self.slope * np.asarray(matrix, dtype=np.float64) + self.per_kernel_us * kernels
        for axis in range(found.ndim):
            np.moveaxis(found, axis, 0)[0] = 0.0
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "format_version": FORMAT_VERSION,
            "slope": self.slope,
            "per_kernel_us": self.per_kernel_us,
            "offset_us": self.offset_us,
            "networks": self.networks,
            "spread": self.spread,
            "bias": self.bias,
            "families": dict(self.families),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkCorrection:
        """Return the correction that ``to_json`` wrote, or that ``Correction.to_json`` wrote.

        Raises ``InputError`` for one of a later version, or one that is damaged.
        """
        try:
            if data.get("format_version", 1) > FORMAT_VERSION:
                raise InputError(
                    "the correction of networks is of a later version; update with: pip install -U gharial"
                )
            return cls(
                float(data["slope"]),
                float(data.get("per_kernel_us", 0.0)),
                float(data["offset_us"]),
                int(data["networks"]),
                float(data["spread"]),
                float(data.get("bias", 0.0)),
                {str(family): float(spread) for family, spread in data.get("families", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"the correction of networks is damaged ({error}); fit the model again"
            ) from error


def fit_network_correction(
    sums_us: Sequence[float],
    kernels: Sequence[float],
    measured_us: Sequence[float],
    families: Sequence[str] | None = None,
) -> NetworkCorrection:
    """Fit a correction on networks: the sums of their kernels, how many these are, and what was measured.

    Without ``families``, or with fewer than three, each network is its own. The sums must be predicted as those
    of later networks will be: then what they miss on average is corrected too. Raises ``InputError`` for
    sequences of different lengths and values that are not positive.
    """
    sums, counts, measured = (np.asarray(v, dtype=float) for v in (sums_us, kernels, measured_us))
    names = [str(place) for place in range(len(sums))] if families is None else list(families)
    if not len(sums) == len(counts) == len(measured) == len(names):
        raise InputError("a correction of networks needs one sum, count, measurement and family per network")
    if not all(np.isfinite(v).all() and (v > 0).all() for v in (sums, counts, measured)):
        raise InputError("a correction of networks needs positive sums, counts and measurements")
    if not len(sums):
        return NetworkCorrection()
    groups = np.array(names if len(set(names)) > 2 else [str(place) for place in range(len(sums))])
    design = np.column_stack([sums, counts, np.ones(len(sums))]) / measured[:, None]
    chosen = _choose(design, groups) if len(set(groups)) > 2 else None
    best, left = (_CHOICES[-1], None) if chosen is None else chosen
    slope, launch, offset = (float(term) for term in _solve(design, best))
    if left is None:  # too few to hold one out: what remains, and what the prior knows of any device
        left = 1.0 - design @ np.array([slope, launch, offset])
        spread = math.hypot(_rms(left), _UNMEASURED / (1.0 + len(sums)))
        return NetworkCorrection(slope, launch, offset, len(sums), max(_LEAST_SPREAD, spread))
    spreads = {name: max(_LEAST_SPREAD, _rms(left[np.array(names) == name])) for name in dict.fromkeys(names)}
    return NetworkCorrection(
        slope,
        launch,
        offset,
        len(sums),
        max(_LEAST_SPREAD, _rms(left)),
        -float(left.mean()),
        spreads if families is not None else {},
    )


def _choose(design: Array, groups: NDArray[np.str_]) -> tuple[tuple[int, ...], Array]:
    """Return the free terms to use, and the relative residuals of each group from a fit without it."""
    best: tuple[float, tuple[int, ...], Array] | None = None
    for free in _CHOICES:
        left = np.empty(len(design))
        for group in set(groups.tolist()):
            held = groups == group
            left[held] = 1.0 - design[held] @ _solve(design[~held], free)
        error = _rms(left)
        if best is None or error < _CLEARLY * best[0]:
            best = (error, free, left)
    assert best is not None
    return best[1], best[2]


def _solve(design: Array, free: tuple[int, ...]) -> Array:
    """Minimise the relative residuals and the pull to (1, 0, 0) over the ``free`` terms."""
    found = np.array([1.0, 0.0, 0.0])
    if not free:
        return found
    places = list(free)
    pull = np.diag(_RESIDUAL / _TYPICAL[places])
    # In units of the typical sizes: microseconds and a slope are of very different ones.
    unit = _TYPICAL[places]
    rows = np.vstack([design[:, places], pull]) * unit
    wanted = np.append(1.0 - design @ found, np.zeros(len(places)))
    lower = np.array([_LEAST_SLOPE - 1.0 if place == 0 else 0.0 for place in places]) / unit
    found[places] += np.asarray(lsq_linear(rows, wanted, bounds=(lower, np.inf)).x) * unit
    return found


def _rms(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))
