"""The time of a kernel that streams its data, as a function of the bytes that it moves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import nnls

__all__ = ["KNOTS", "Curve", "fit_curve", "fit_on"]

Array = NDArray[np.float64]
# Bytes read and written where the slope may change: launch-bound, a part of the processors busy, all of them, the
# cache, and beyond it the memory. Four times apart, closer around the sizes of today's caches.
KNOTS = tuple(float(1 << p) for p in (0, 14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27, 29))
_SMOOTH = 0.02  # pull of neighbouring slopes to each other: decides where no sample lies, nothing elsewhere
# How much the floor and the slope of a kernel differ from those of its kin, relative, and how far one sample
# lies from its curve.
_PRIOR, _NOISE = 1.0, 0.1


@dataclass(frozen=True)
class Curve:
    """Microseconds at ``KNOTS``: ascending, straight between them, and on as between the last two."""

    values_us: tuple[float, ...]

    def at(self, moved_bytes: ArrayLike) -> Array:
        """Return the microseconds of kernels that read and write so many bytes together."""
        moved = np.asarray(moved_bytes, dtype=float)
        slope = (self.values_us[-1] - self.values_us[-2]) / (KNOTS[-1] - KNOTS[-2])
        beyond = np.maximum(moved - KNOTS[-1], 0.0)
        return np.interp(moved, KNOTS, self.values_us) + slope * beyond

    def straight(self) -> Curve:
        """Return the line with the same floor and the slope beyond the cache: data that is never in it."""
        slope = (self.values_us[-1] - self.values_us[-2]) / (KNOTS[-1] - KNOTS[-2])
        return Curve(tuple(self.values_us[0] + slope * moved for moved in KNOTS))


def fit_curve(moved_bytes: Array, latency_us: Array) -> Curve:
    """Return the curve with the least squared relative residuals, its floor and slopes not below 0."""
    ends = np.array(KNOTS)
    parts = np.clip((moved_bytes[:, None] - ends[:-1]) / np.diff(ends), 0.0, None)
    parts[:, :-1] = np.minimum(parts[:, :-1], 1.0)
    design = np.column_stack([np.ones(len(parts)), parts]) / latency_us[:, None]
    # The pull compares slopes in microseconds: times the harmonic mean of the two segments' lengths.
    scale = np.sqrt(len(latency_us)) * _SMOOTH / float(np.median(latency_us))
    smooth = np.zeros((len(ends) - 2, len(ends)))
    for row in range(len(ends) - 2):
        lengths = np.diff(ends[row : row + 3])
        smooth[row, row + 1 : row + 3] = scale * np.array([1.0, -1.0]) * lengths[::-1] / lengths.sum()
    found, _ = nnls(np.vstack([design, smooth]), np.append(np.ones(len(design)), np.zeros(len(smooth))))
    return Curve(tuple(float(v) for v in np.cumsum(found)))


def fit_on(kin: Curve, moved_bytes: Array, latency_us: Array) -> Curve:
    """Return the curve of a kernel with few samples: floor and slopes of ``kin``, each times a number.

    Both are pulled to 1, the less the more samples there are (and the more the sizes of these differ).
    """
    floor = kin.values_us[0]
    rise = kin.at(moved_bytes) - floor
    design = np.column_stack([np.full(len(rise), floor), rise]) / latency_us[:, None]
    pull = np.eye(2) * _NOISE / _PRIOR
    found, _ = nnls(np.vstack([design, pull]), np.append(np.ones(len(design)), np.diag(pull)))
    return Curve(tuple(float(found[0] * floor + found[1] * (v - floor)) for v in kin.values_us))
