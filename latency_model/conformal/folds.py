"""CV+: intervals from the K models of a cross-validation, with a guarantee that needs no stable model."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from latency_model.conformal.scores import check_confidence
from latency_model.errors import InputError

__all__ = ["cv_plus"]

Array = NDArray[np.float64]
_FUZZ = 1e-9
_CELLS = 2_000_000


def cv_plus(
    fold_predicted_us: Array,
    scores: Array,
    fold: NDArray[np.int64],
    fold_difficulty: Array | None = None,
    *,
    confidence: float = 0.9,
) -> tuple[Array, Array]:
    """Return (low_us, high_us), shape (m,), of m new rows by CV+ on the log scale.

    ``fold_predicted_us`` and ``fold_difficulty`` (1 if not given) have shape (K, m): what the model without fold
    k says of each new row. ``scores`` are the signed out-of-fold scores log(measured / predicted) / difficulty of
    the n training rows, ``fold`` says where each was left out. The upper end is the ceil((n + 1) side)-th smallest
    of log(prediction of the model without i's fold) + difficulty * score_i, side = (1 + confidence) / 2, the lower
    end its mirror image.

    For exchangeable rows and a fit that does not depend on their order, with a = 1 - confidence and equal folds,
    the symmetric form (absolute residuals) covers at least 1 - 2a - min(2(1 - 1/K)/(n/K + 1), (1 - K/n)/(K + 1)),
    hence at least 1 - 2a - sqrt(2/n) (Barber, Candes, Ramdas and Tibshirani 2021, theorem 4; the cross-conformal
    sets of Vovk 2015 lie inside and have 1 - 2a - 2(1 - a)(1 - 1/K)/(n/K + 1)). The same argument on each signed side,
    at a / 2, gives this form 1 - 2a less twice the last term. In practice the coverage is close to 1 - a.

    Raises ``InputError`` for shapes that do not fit, and where n is too small for a finite end (n < side / (1 - side)).
    """
    check_confidence(confidence)
    predicted = np.asarray(fold_predicted_us, dtype=float)
    scale = np.ones_like(predicted) if fold_difficulty is None else np.asarray(fold_difficulty, dtype=float)
    scores, fold = np.asarray(scores, dtype=float), np.asarray(fold)
    if predicted.ndim != 2 or scale.shape != predicted.shape or scores.shape != fold.shape:
        raise InputError("CV+ needs predictions of shape (folds, rows), and a fold per score")
    n, side = len(scores), (1 + confidence) / 2
    rank = math.ceil((n + 1) * side - _FUZZ)
    if rank > n:
        raise InputError(
            f"{n} rows are too few for an interval at {confidence:.0%}; give {_least(side)} or more"
        )
    if fold.min() < 0 or fold.max() >= len(predicted) or not (predicted > 0).all():
        raise InputError("CV+ needs positive predictions, and folds counted from 0")
    logs = np.log(predicted)
    low, high = np.empty(predicted.shape[1]), np.empty(predicted.shape[1])
    step = max(1, _CELLS // n)
    for start in range(0, len(low), step):
        part = slice(start, start + step)
        cells = logs[fold, part] + scale[fold, part] * scores[:, None]
        ends = np.partition(cells, (n - rank, rank - 1), axis=0)
        low[part], high[part] = np.exp(ends[n - rank]), np.exp(ends[rank - 1])
    return low, high


def _least(side: float) -> int:
    return math.ceil(side / (1 - side) - _FUZZ)
