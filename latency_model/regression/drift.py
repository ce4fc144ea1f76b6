"""Rows that were timed one after the other on a device, or by a program, that became slower.

A delay that grows with the number of rows measured so far adds to every latency, in proportion to the row's place
in the file. It is no part of what a convolution costs: it is fitted and taken out before anything is learned, as
one number, the microseconds between the first and the last row.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar

from latency_model.regression.geometry import Array

__all__ = ["added_us", "drift_us", "with_delay"]

_LEAST_ROWS = 200
# The relative error that taking a drift out must save before it is believed.
_LEAST_GAIN = 0.005
_LEAST_LEFT = 0.2  # of a latency, whatever the drift


def drift_us(latency_us: Array, predicted_us: Array, place: Array) -> float:
    """Return how much later rows take more than earlier ones, 0.0 when that explains nothing.

    ``predicted_us`` must come from the sizes alone; ``place`` runs from 0 for the first row of the file to 1 for the
    last. Minimises the mean absolute error relative to the prediction.
    """
    if len(latency_us) < _LEAST_ROWS:
        return 0.0

    def error(drift: float) -> float:
        return float(np.mean(np.abs((latency_us - drift * (place - 0.5)) / predicted_us - 1.0)))

    limit = 2.0 * float(np.median(latency_us))
    best = minimize_scalar(error, bounds=(-limit, limit), method="bounded", options={"xatol": limit * 1e-4})
    if error(0.0) - float(best.fun) < _LEAST_GAIN:
        return 0.0
    return float(best.x)


def added_us(latency_us: Array, drift: float, place: Array) -> Array:
    """Return what a drift added to each row beyond what it added in the middle of the file."""
    found: Array = np.minimum(drift * (place - 0.5), (1.0 - _LEAST_LEFT) * latency_us)
    return found


def with_delay(latency_us: Array, drift: float) -> Array:
    """Return the prediction with the least expected relative error for a row somewhere in a run that drifts.

    A row that takes f in the middle of the run takes y, as likely anywhere between f - d/2 and f + d/2. The
    expected ``|p / y - 1|`` is least where p halves the weight 1 / y over that range: at the geometric mean of its
    ends, ``sqrt(f^2 - d^2 / 4)``. The lower end is at least a fifth of f, as in ``added_us``.
    """
    half = abs(drift) / 2.0
    found: Array = np.sqrt(np.maximum(latency_us - half, _LEAST_LEFT * latency_us) * (latency_us + half))
    return found
