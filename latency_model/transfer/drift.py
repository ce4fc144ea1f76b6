"""A delay that grows along a run, found in few rows: only where it is beyond doubt."""

from __future__ import annotations

import numpy as np

from latency_model.regression.geometry import Array

__all__ = ["few_rows_drift_us"]

_BEYOND_DOUBT = 3.5  # standard errors
_ROUNDS = 20
_LEAST_ERROR = 0.02
_LEAST_ROWS = 20


def few_rows_drift_us(latency_us: Array, predicted_us: Array, place: Array) -> tuple[float, float]:
    """Return how much the last row of a run takes more than the first, and that in standard errors.

    ``place`` is where each row stood in the run, from 0 to 1, NaN where not known. The drift is 0.0 when it is less
    than 3.5 standard errors or there are fewer than 20 rows. Least absolute relative errors, by reweighted least
    squares, next to a common factor. ``regression.drift`` does the same for hundreds of rows.
    """
    known = np.isfinite(place)
    latency, predicted, place = latency_us[known], predicted_us[known], place[known]
    if len(place) < _LEAST_ROWS or np.ptp(place) == 0.0:
        return 0.0, 0.0
    design = np.column_stack([np.ones(len(place)), (place - 0.5) / predicted])
    design[:, 1] *= (scale := float(np.median(predicted)))
    target = latency / predicted
    weight = np.ones(len(place))
    for _ in range(_ROUNDS):
        found = np.linalg.lstsq(design * weight[:, None], target * weight, rcond=None)[0]
        errors = np.abs(target - design @ found)
        weight = 1.0 / np.sqrt(np.maximum(errors, _LEAST_ERROR))
    # Of least absolute errors: the error of a median is pi / 2 times as large, squared, as that of a normal mean.
    deviation = 1.2533 * 1.4826 * float(np.median(errors))
    inverse = np.linalg.pinv(design.T @ design)
    doubt = max(deviation * float(np.sqrt(inverse[1, 1])), 1e-12)
    sure = float(found[1]) / doubt
    return (float(found[1]) * scale if abs(sure) >= _BEYOND_DOUBT else 0.0), sure
