"""Latency matrices averaged over neighbouring counts, so that a gradient sees across the plateaus of a staircase.

Each axis is averaged with the triangle ``k(d) ~ max(0, 1 - |d| / (width + 1))``, continuous in its width and at
width 0 the identity. What the triangle would read beyond an end is the matrix turned by half a circle around that
end, ``2 L[end] - L[end - d]``. This has what reflection and renormalising lack: a straight line stays as it is,
its slope at the ends (where pruning begins) included, and the values at both ends stay. As the triangle is
unimodal, the weight that remains on each count is not negative (it is that of a walk which stops at the ends): the
result is a weighted mean of the matrix, so it stays within its range, and monotone if it was.

Count 0 is no stair but the absence of the operator: its row and column keep their values and enter no mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError

__all__ = ["smoothed"]

Array = NDArray[np.float64]

_BLOCK = 192


def smoothed(matrices: Mapping[str, Array], width: float) -> dict[str, Array]:
    """Return the matrices (or lines) by site name, averaged over ``width`` channels on each side.

    To be annealed: a smaller ``width`` from time to time, and 0 in the end, which gives the matrices as they
    are. All kinds of matrices can be given, each with counts from 0. The width counts for at most the longer
    half of an axis's counts. Sites that have the same array get the same array. Raises ``InputError`` for a
    negative width or one that is no number.
    """
    if not (math.isfinite(width) and width >= 0):
        raise InputError(f"the width of the smoothing must be a number of channels from 0, not {width}")
    if width == 0:
        return dict(matrices)
    made: dict[int, Array] = {}
    for matrix in matrices.values():
        if id(matrix) not in made:
            made[id(matrix)] = _smooth(np.asarray(matrix, dtype=np.float64), width)
    return {name: made[id(matrix)] for name, matrix in matrices.items()}


def _smooth(matrix: Array, width: float) -> Array:
    result = np.array(matrix)
    stairs = result[(slice(1, None),) * matrix.ndim]
    averaged = _along_first(stairs, width)
    stairs[...] = averaged if matrix.ndim == 1 else _along_first(averaged.T, width).T
    return result


def _along_first(stairs: Array, width: float) -> Array:
    """Average along the first axis; the matrix of weights is a band, made block by block."""
    last = len(stairs) - 1
    if last < 2:
        return stairs
    base = min(width + 1, float(last))
    side = math.ceil(base) - 1
    total = _triangle(np.arange(-side, side + 1), base).sum()
    result = np.empty(stairs.shape)
    for start in range(0, last + 1, _BLOCK):
        at = np.arange(start, min(start + _BLOCK, last + 1))
        low, high = max(0, start - side), min(last, int(at[-1]) + side)
        read = np.arange(low, high + 1)
        weights = _triangle(at[:, None] - read, base)
        weights -= _triangle(2 * last - at[:, None] - read, base) * (read < last)
        weights -= _triangle(at[:, None] + read, base) * (read > 0)
        # The ends also have what the turned parts add twice.
        beyond = np.arange(1, side + 1)
        if low == 0:
            weights[:, 0] += 2 * _triangle(at[:, None] + beyond, base).sum(1)
        if high == last:
            weights[:, -1] += 2 * _triangle(last - at[:, None] + beyond, base).sum(1)
        result[at] = (weights / total) @ stairs[read]
    return result


def _triangle(distance: NDArray[np.int64], base: float) -> Array:
    return np.maximum(0.0, base - np.abs(distance))
