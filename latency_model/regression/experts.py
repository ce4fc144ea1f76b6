"""Formulas of what one kind of kernel costs: blocks of work in whole waves, plus data moved, plus a constant.

A convolution kernel covers the output with tiles, and a tile that is half outside costs as much as a full one. A
device of ``units`` processors works tiles off in waves, and a wave that is half empty costs as much as a full
one. Which tiles a kernel has is seldom documented, but shows in its times: all tilings in ``TILINGS``
are tried and the one whose formula errs least is kept. The formula is a sum of non-negative parts (least squares
of the relative errors, reweighted towards their absolute values).

Sources: NVIDIA, Matrix Multiplication Background User's Guide (tile and wave quantisation); Lavin and Gray,
Fast Algorithms for Convolutional Neural Networks, CVPR 2016 (Winograd tiles).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.parts import TILINGS, Tiling, parts

__all__ = ["Expert", "fit_expert", "ranked", "search", "unseen"]

_SUBSET = 400
_KEPT = 3
_PLAIN_BELOW = 100  # rows: fewer cannot tell a transform
_DEPTHS = (1, 8, 16, 32, 64)
_ROUNDS = 5
_FLOOR_US = 1e-3


@dataclass(frozen=True)
class Expert:
    """A formula in microseconds: ``weights`` of the parts of one tiling on a device of ``units`` processors."""

    tiling: Tiling
    units: int
    weights: tuple[float, ...]
    error: float

    def predict(self, sizes: Geometry, known: Array | None = None) -> Array:
        """Return the microseconds of each convolution, at least a nanosecond; ``known`` are its parts, if known."""
        each = parts(sizes, self.tiling, self.units) if known is None else known
        found: Array = np.maximum(each @ np.array(self.weights), _FLOOR_US)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        t = self.tiling
        tiling = [t.images, t.rows, t.columns, t.products, t.span, t.channels, t.depth, int(t.padded)]
        return {
            "tiling": tiling,
            "blocked": t.blocked,
            "units": self.units,
            "weights": list(self.weights),
            "error": self.error,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expert:
        """Return the expert that ``to_json`` wrote."""
        weights = tuple(map(float, data["weights"]))
        *sizes, padded = map(int, data["tiling"])
        names = ("images", "rows", "columns", "products", "span", "channels", "depth")
        blocked = bool(data.get("blocked", False))  # formulas saved before there were such ones do not say
        tiling = Tiling(**dict(zip(names, sizes, strict=True)), padded=bool(padded), blocked=blocked)
        return cls(tiling, int(data["units"]), weights, float(data["error"]))


def fit_expert(sizes: Geometry, latency_us: Array, tiling: Tiling, units: int) -> Expert:
    """Return the formula of one tiling with the least relative error."""
    scaled = parts(sizes, tiling, units) / latency_us[:, None]
    weights = _nnls(scaled, np.ones(len(latency_us)))
    for _ in range(_ROUNDS):
        # Towards the least absolute error: what is far off gets less weight.
        pull = 1.0 / np.sqrt(np.maximum(np.abs(scaled @ weights - 1.0), 0.02))
        weights = _nnls(scaled * pull[:, None], pull)
    error = float(np.abs(scaled @ weights - 1.0).mean())
    return Expert(tiling, units, tuple(map(float, weights)), error)


def unseen(expert: Expert, sizes: Geometry, latency_us: Array, *, folds: int = 5, seed: int = 0) -> Array:
    """Return what the formula says of each row with weights that were fitted without it."""
    fold = np.random.default_rng(seed).permutation(len(latency_us)) % folds
    found = np.empty(len(latency_us))
    for number in range(folds):
        mine = fold == number
        fitted = fit_expert(sizes.take(~mine), latency_us[~mine], expert.tiling, expert.units)
        found[mine] = fitted.predict(sizes.take(mine))
    return found


def ranked(
    sizes: Geometry, latency_us: Array, tilings: Sequence[Tiling], units: int
) -> list[tuple[float, Tiling]]:
    """Return the tilings with the error of their formulas, least first, none of them reweighted."""
    found = []
    for tiling in tilings:
        scaled = parts(sizes, tiling, units) / latency_us[:, None]
        weights = _nnls(scaled, np.ones(len(latency_us)))
        found.append((float(np.abs(scaled @ weights - 1.0).mean()), tiling))
    return sorted(found, key=lambda pair: pair[0])


def search(
    sizes: Geometry, latency_us: Array, *, units: int, tilings: Sequence[Tiling] = TILINGS, seed: int = 0
) -> Expert:
    """Return the best formula of all ``tilings``, judged on up to 400 of the rows, then fitted on all.

    The best few are tried with several depths and with padding too.
    """
    count = len(latency_us)
    if count < _PLAIN_BELOW:
        tilings = [tiling for tiling in tilings if tiling.products == 0]
    some: NDArray[np.int64] = np.arange(count)
    if count > _SUBSET:
        some = np.random.default_rng(seed).choice(count, _SUBSET, replace=False)
    best = [tiling for _, tiling in ranked(sizes.take(some), latency_us[some], tilings, units)[:_KEPT]]
    tried = [
        replace(each, depth=depth, padded=padded)
        for each in best
        for depth in _DEPTHS
        for padded in (False, True)
        if not each.blocked
    ]
    tried += [each for each in best if each.blocked]
    return min(
        (fit_expert(sizes, latency_us, each, units) for each in tried), key=lambda expert: expert.error
    )


def _nnls(matrix: Array, target: Array) -> Array:
    # Columns of one size: nnls stops by an absolute tolerance.
    scale = np.sqrt((matrix * matrix).sum(axis=0))
    scale[scale == 0.0] = 1.0
    weights, _ = nnls(matrix / scale, target)
    found: Array = weights / scale
    return found
