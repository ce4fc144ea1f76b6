"""From the sum of convolutions to a whole network: one slope and one offset, only as large as measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.network import OpSite, Site
from latency_model.ops import Config

__all__ = ["Correction", "fit_correction"]

# How far the truth typically is from an estimate, relative, before any network of the device was measured
# (the plain sums of 69 networks on one GPU were 12 % off in the mean), and with one measured network.
_SPREAD_BY_NETWORKS = (0.12, 0.05)
_LEAST_SPREAD = 0.02
# Strength of the pull of the slope to 1: slopes vary by some 0.2 between devices, residuals by some 0.03.
_RIDGE = (0.03 / 0.2) ** 2
_LEAST_SLOPE = 0.1


@dataclass(frozen=True, slots=True)
class Correction:
    """``latency = slope * sum + offset_us``, fitted on ``networks`` measured networks (0: no correction).

    ``spread`` is the relative standard deviation of what remains.
    """

    slope: float = 1.0
    offset_us: float = 0.0
    networks: int = 0
    spread: float = _SPREAD_BY_NETWORKS[0]

    def __post_init__(self) -> None:
        values = (self.slope, self.offset_us, self.spread)
        if not all(math.isfinite(value) for value in values) or self.slope <= 0 or self.offset_us < 0:
            raise InputError(f"not a correction: slope {self.slope}, offset {self.offset_us} us")

    def apply(self, sum_us: float) -> float:
        """Return the latency of a network whose convolutions sum to ``sum_us``."""
        return self.slope * sum_us + self.offset_us

    @property
    def call_us(self) -> float:
        """What a network costs beyond its operators, once: the offset."""
        return self.offset_us

    def operator_us(
        self,
        shape: Config,  # noqa: ARG002 - one signature for all
        row_us: float,
        *,
        total_weight_bytes: float = 0.0,  # noqa: ARG002 - one signature for all
    ) -> float:
        """Return the share of an operator with the row ``row_us``, whatever its ``shape`` and weights are."""
        return self.slope * row_us

    def matrix(
        self,
        site: Site | OpSite,  # noqa: ARG002 - one signature for all
        matrix: NDArray[np.float64],
        *,
        total_weight_bytes: float = 0.0,  # noqa: ARG002 - one signature for all
    ) -> NDArray[np.float64]:
        """Return ``operator_us`` at all channel counts of a site whose rows are ``matrix``."""
        return self.slope * matrix

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "slope": self.slope,
            "offset_us": self.offset_us,
            "networks": self.networks,
            "spread": self.spread,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Correction:
        """Return the correction that ``to_json`` wrote."""
        return cls(
            float(data["slope"]), float(data["offset_us"]), int(data["networks"]), float(data["spread"])
        )


def fit_correction(sums_us: Sequence[float], measured_us: Sequence[float]) -> Correction:
    """Fit a correction on networks: the sums of their convolutions, and their measured latencies.

    One network cannot tell a slope from an offset. What it takes beyond its convolutions (other operators,
    the call itself) is an offset; when it takes less, the convolutions are scaled. Several: least squares of
    the relative residuals, the slope pulled to 1 and the offset not below 0.
    """
    sums, measured = np.asarray(sums_us, dtype=float), np.asarray(measured_us, dtype=float)
    if sums.shape != measured.shape or (sums <= 0).any() or (measured <= 0).any():
        raise InputError("a correction needs a positive sum and a positive measurement per network")
    if len(sums) == 0:
        return Correction()
    if len(sums) == 1:
        extra = float(measured[0] - sums[0])
        slope, offset = (1.0, extra) if extra > 0 else (float(measured[0] / sums[0]), 0.0)
        return Correction(slope, offset, 1, _SPREAD_BY_NETWORKS[1])
    slope, offset = _ridge(sums / measured, 1.0 / measured)
    residuals = 1.0 - (slope * sums + offset) / measured
    freedom = max(1, len(sums) - 2)
    spread = max(_LEAST_SPREAD, float(np.sqrt((residuals**2).sum() / freedom)))
    return Correction(slope, offset, len(sums), spread)


def _ridge(u: np.ndarray, v: np.ndarray) -> tuple[float, float]:
    """Minimise ``sum (1 - s u - o v)^2 + n RIDGE (s - 1)^2`` over s >= LEAST_SLOPE and o >= 0."""
    weight = _RIDGE * len(u)
    scale = float(v.max())  # microseconds are large: v and u must be of one size for a stable solution
    w = v / scale
    left = np.array([[u @ u + weight, u @ w], [u @ w, w @ w]])
    slope, offset = np.linalg.solve(left, np.array([u.sum() + weight, w.sum()]))
    if offset < 0:
        slope, offset = (u.sum() + weight) / (u @ u + weight), 0.0
    if slope < _LEAST_SLOPE:  # larger networks were measured faster: the table is of no use for them
        slope = _LEAST_SLOPE
        offset = max(0.0, float(w @ (1.0 - slope * u)) / float(w @ w))
    return float(slope), float(offset) / scale
