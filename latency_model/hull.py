"""The biconvex minorant of a staircase: its long-range rate of exchange, across the plateaus."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError

__all__ = ["convex_minorant"]

Array = NDArray[np.float64]
_SWEEPS = 200


def convex_minorant(latency: Array, *, rtol: float = 1e-9) -> Array:
    """Return the largest function below ``latency`` that is convex along each axis.

    ``latency`` is a matrix over (in, out) counts, or a line over one count, with 0 at every count 0. Lower
    convex hulls are taken along one axis after the other until nothing changes by more than ``rtol`` of the
    largest value: every biconvex function below the matrix stays below at each step. As hulls rise from 0,
    only the last of equal neighbouring rows and columns can be a corner, and only those are computed.
    Raises ``InputError`` for negative or infinite values, and when count 0 does not cost 0.
    """
    values = np.asarray(latency, dtype=np.float64)
    if values.ndim not in (1, 2) or not np.isfinite(values).all() or (values < 0).any():
        raise InputError("a convex minorant is of a matrix or a line of finite latencies")
    if values[0].any() or (values.ndim == 2 and values[:, 0].any()):
        raise InputError("a convex minorant is of latencies that are 0 at count 0")
    if values.ndim == 1:
        line: Array = _lower_hulls(np.arange(len(values), dtype=np.float64), values[None, :])[0]
        return line
    rows, columns = _corners(values, 0), _corners(values, 1)
    small = values[np.ix_(rows, columns)]
    tolerance = rtol * max(float(np.abs(small).max(initial=0.0)), np.finfo(float).tiny)
    for _ in range(_SWEEPS):
        before = small
        small = _lower_hulls(columns.astype(np.float64), small)
        small = _lower_hulls(rows.astype(np.float64), small.T).T
        if np.abs(small - before).max(initial=0.0) <= tolerance:
            break
    # Between corners the hulls are straight along both axes.
    along = _interpolate(np.arange(values.shape[1]), columns, small)
    return np.ascontiguousarray(_interpolate(np.arange(values.shape[0]), rows, along.T).T)


def _corners(values: Array, axis: int) -> NDArray[np.int64]:
    """Return the positions along ``axis`` that end a plateau of equal slices, with 0 and the last."""
    changes = np.diff(values, axis=axis).any(axis=1 - axis)
    last = values.shape[axis] - 1
    return np.unique(np.concatenate(([0], np.flatnonzero(changes), [last]))).astype(np.int64)


def _interpolate(at: NDArray[np.int64], knots: NDArray[np.int64], values: Array) -> Array:
    """Return ``values``, given in columns at ``knots``, straight between them in columns at ``at``."""
    if len(knots) == 1:
        return np.repeat(values, len(at), axis=1)
    right = np.clip(np.searchsorted(knots, at, side="left"), 1, len(knots) - 1)
    left = right - 1
    share = (at - knots[left]) / (knots[right] - knots[left])
    result: Array = values[:, left] * (1.0 - share) + values[:, right] * share
    return result


def _lower_hulls(x: Array, values: Array) -> Array:
    """Return the lower convex hull of each row of ``values`` over the positions ``x``.

    All rows at once: from its last corner each row steps to the point of least slope, the furthest such.
    """
    rows, points = values.shape
    result = values.copy()
    corner = np.zeros(rows, dtype=np.int64)
    every = np.arange(rows)
    while (active := corner < points - 1).any():
        base, height = x[corner], values[every, corner]
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = (values - height[:, None]) / (x[None, :] - base[:, None])
        slopes[x[None, :] <= base[:, None]] = np.inf
        least = slopes.min(axis=1)
        # the furthest point of least slope
        target = points - 1 - np.argmax(slopes[:, ::-1] <= least[:, None], axis=1)
        target = np.where(active, target, points - 1)
        line = height[:, None] + np.where(active, least, 0.0)[:, None] * (x[None, :] - base[:, None])
        inside = (x[None, :] > base[:, None]) & (x[None, :] < x[target][:, None]) & active[:, None]
        result = np.where(inside, np.minimum(line, values), result)
        corner = target
    return result
