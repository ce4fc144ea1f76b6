"""How the errors of rows add up in a network of which nothing was measured as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError

__all__ = ["DEFAULT_RHO", "row_correlation", "sum_interval"]

Array = NDArray[np.float64]

# What the errors of two rows of one kernel family are taken to share when nobody estimated it: above the 0.02 to 0.23
# found between rows of one kernel on four devices (benchmarks/conformal_rows.csv).
DEFAULT_RHO = 0.3


def sum_interval(
    latency_us: Array,
    low_us: Array,
    high_us: Array,
    *,
    rho: float = DEFAULT_RHO,
    family: Sequence[str] | NDArray[Any] | None = None,
) -> tuple[float, float]:
    """Return (low_us, high_us) of the sum of rows with these estimates and intervals, all of shape (n,).

    The distance from the sum to its upper end is that of the standard deviation of a sum whose terms have pairwise
    correlation ``rho`` inside a kernel ``family`` and none across (one family if not given): per family
    sqrt((1 - rho) * sum(u^2) + rho * (sum u)^2), u the distances of the rows, and the root of the squares over
    families; the lower end likewise. ``rho = 0`` is independence, ``rho = 1`` adds the ends. It takes intervals
    to scale like standard deviations, which is exact for elliptical errors and otherwise a rule, not a guarantee;
    what networks spend beyond their rows is not in it. A caller must flag what it makes of this, and prefer
    ``FamilyConformal`` as soon as whole networks were measured.

    Raises ``InputError`` for lengths that differ, ends on the wrong side, or a ``rho`` outside 0 to 1.
    """
    value, low, high = (np.asarray(part, dtype=float) for part in (latency_us, low_us, high_us))
    if not value.shape == low.shape == high.shape or value.ndim != 1:
        raise InputError("a sum needs an estimate, a lower and an upper end for each row")
    if not (np.isfinite(low + high).all() and (low <= value).all() and (value <= high).all()):
        raise InputError("each row's estimate must lie within its interval")
    if not 0 <= rho <= 1:
        raise InputError(f"a correlation of row errors lies between 0 and 1, not at {rho}")
    codes = np.zeros(len(value), dtype=np.int64) if family is None else _codes(family, len(value))
    total = float(value.sum())
    below, above = (_join(distance, codes, rho) for distance in (value - low, high - value))
    return max(0.0, total - below), total + above


def _join(distance: Array, codes: NDArray[np.int64], rho: float) -> float:
    squares = np.bincount(codes, weights=distance**2)
    sums = np.bincount(codes, weights=distance)
    return float(np.sqrt(((1 - rho) * squares + rho * sums**2).sum()))


def row_correlation(scores: Array, family: Sequence[str] | NDArray[Any]) -> float:
    """Return the correlation between errors of two rows of one family, 0 to 1, from out-of-fold ``scores`` (n,).

    The intraclass correlation of a one-way random-effects analysis of variance (Fisher 1925; Donner 1986), the
    family sizes brought to one by n0. A negative estimate is 0. Raises ``InputError`` when there are not two
    families and one of them with two rows.
    """
    values = np.asarray(scores, dtype=float)
    codes = _codes(family, len(values))
    sizes = np.bincount(codes)
    n, k = len(values), len(sizes)
    if k < 2 or n == k:
        raise InputError("a correlation of row errors needs two families, one of them with two rows or more")
    means = np.bincount(codes, weights=values) / sizes
    between = float((sizes * (means - values.mean()) ** 2).sum()) / (k - 1)
    within = float(((values - means[codes]) ** 2).sum()) / (n - k)
    n0 = (n - float((sizes**2).sum()) / n) / (k - 1)
    spread = between + (n0 - 1) * within
    return 0.0 if spread <= 0 else float(np.clip((between - within) / spread, 0.0, 1.0))


def _codes(family: Sequence[str] | NDArray[Any], count: int) -> NDArray[np.int64]:
    if len(family) != count:
        raise InputError(f"{count} rows have {len(family)} families; give one per row")
    return np.unique(np.asarray(family, dtype=str), return_inverse=True)[1]
