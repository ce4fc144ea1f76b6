"""One number for what is known as several possible ones with chances."""

from __future__ import annotations

import numpy as np

from latency_model.regression.geometry import Array

__all__ = ["least_relative_error", "points"]


def least_relative_error(logs: Array, chances: Array) -> Array:
    """Return the logarithm, shape (n,), of the number with the least expected error relative to the truth.

    ``logs`` and ``chances`` of shape (n, m): the truth is ``exp(logs[i, j])`` with a chance in proportion to
    ``chances[i, j]``. ``E |p / y - 1|`` is least where p is the median of the truths weighted by ``1 / y``. A mean
    lies between two kernels' times, where no kernel is.
    """
    order = np.argsort(logs, axis=1, kind="stable")
    ordered = np.take_along_axis(logs, order, axis=1)
    weights = np.take_along_axis(chances, order, axis=1) * np.exp(ordered[:, :1] - ordered)
    passed = np.cumsum(weights, axis=1)
    place = (passed >= 0.5 * passed[:, -1:]).argmax(axis=1)
    found: Array = ordered[np.arange(len(logs)), place]
    return found


def points(values: Array, count: int) -> Array:
    """Return up to ``count`` numbers for each row of ``values`` of shape (n, m), in order, that stand for them.

    They are the means of ``min(count, m)`` groups of the sorted values, of one size as nearly as can be.
    """
    ordered = np.sort(values, axis=1)
    width = ordered.shape[1]
    bounds = np.linspace(0, width, min(count, width) + 1).astype(np.int64)
    found: Array = np.add.reduceat(ordered, bounds[:-1], axis=1) / np.diff(bounds)
    return found
