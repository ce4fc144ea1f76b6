"""Formulas of what one kind of kernel costs: blocks of work in whole waves, plus data moved, plus a constant.

A convolution kernel covers the output with tiles, and a tile that is half outside costs as much as a full one. A
device of ``units`` processors works tiles off in waves, and a wave that is half empty costs as much as a full
one. Which tiles a kernel has is seldom documented, but shows in its times: all tilings in ``TILINGS`` and ``TILES``
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

from latency_model.regression.geometry import Array, Geometry, ceil_to

__all__ = ["Expert", "Tiling", "fit_expert", "search"]

# Beside known processor counts of GPUs: 1 has no waves.
UNITS = (1, 14, 20, 24, 30, 40, 46, 58, 68, 72, 80, 82, 84, 108, 114, 128, 132, 142, 144)
_SUBSET = 400
_KEPT = 3
_DEPTHS = (8, 16, 32, 64)
_ROUNDS = 5
_FLOOR_US = 1e-3


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a kernel divides the output.

    Images are taken ``images`` at once, pixels in rectangles of ``rows`` by ``columns``; a transform (Winograd,
    FFT) makes ``products`` matrix products of the rectangles, 0 is none. A tile has ``span`` pixels (or rectangles)
    and ``channels`` output channels.
    """

    images: int = 1
    rows: int = 1
    columns: int = 1
    products: int = 0
    span: int = 128
    channels: int = 128
    depth: int = 1


# The first has no tiles in the image; the others were found to matter on GPUs (batch, rows, columns, products).
_IMAGES = (
    (1, 1, 1, 0),
    (1, 2, 2, 0),
    (1, 4, 4, 0),
    (1, 8, 8, 0),
    (1, 4, 8, 0),
    (1, 8, 16, 0),
    (4, 8, 4, 0),
    (8, 1, 1, 0),
    (16, 4, 4, 0),
    (1, 2, 2, 16),
    (1, 4, 4, 36),
    (8, 4, 4, 36),
    (16, 4, 4, 36),
    (16, 2, 2, 16),
    (1, 14, 14, 128),
    (1, 28, 28, 512),
)
_TILES = ((1, 8), (1, 16), (4, 16), (32, 32), (64, 32), (64, 64), (128, 32), (128, 64), (128, 128), (256, 64))
_TILES_TALL = ((256, 128), (32, 128), (64, 128), (32, 64))
TILINGS = tuple(Tiling(*image, *tile) for image in _IMAGES for tile in (*_TILES, *_TILES_TALL))
# Small tiles are those of a CPU, products of transforms need large ones.
TILINGS = tuple(t for t in TILINGS if t.span >= 32 or (t.products == 0 and t.images == 1))


@dataclass(frozen=True)
class Expert:
    """A formula in microseconds: ``weights`` of the parts of one tiling on a device of ``units`` processors."""

    tiling: Tiling
    units: int
    weights: tuple[float, ...]
    error: float

    def predict(self, sizes: Geometry) -> Array:
        """Return the microseconds of each convolution, at least a nanosecond."""
        found: Array = np.maximum(parts(sizes, self.tiling, self.units) @ np.array(self.weights), _FLOOR_US)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        t = self.tiling
        tiling = [t.images, t.rows, t.columns, t.products, t.span, t.channels, t.depth]
        return {"tiling": tiling, "units": self.units, "weights": list(self.weights), "error": self.error}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Expert:
        """Return the expert that ``to_json`` wrote."""
        weights = tuple(map(float, data["weights"]))
        return cls(Tiling(*map(int, data["tiling"])), int(data["units"]), weights, float(data["error"]))


def parts(sizes: Geometry, tiling: Tiling, units: int) -> Array:
    """Return the parts of the formula, shape (n, 10), scaled to be of one size."""
    covered = (
        ceil_to(sizes.batch, tiling.images)
        * ceil_to(sizes.out_height, tiling.rows)
        * ceil_to(sizes.out_width, tiling.columns)
    )
    # A grouped convolution is one product for each group; a depthwise one is not run as a product at all.
    split = np.where(sizes.depthwise, 1.0, sizes.groups)
    outputs = sizes.outputs / split
    depth = np.where(sizes.depthwise, sizes.depth, ceil_to(sizes.depth, tiling.depth))
    if tiling.products:
        spans, each = covered / (tiling.rows * tiling.columns), depth
        tiles = tiling.products * np.ceil(spans / tiling.span) * np.ceil(outputs / tiling.channels) * split
    else:
        each = depth * sizes.taps
        tiles = np.ceil(covered / tiling.span) * np.ceil(outputs / tiling.channels) * split
    work = tiling.span * tiling.channels * each / 1e9
    unaligned_in = sizes.inputs % sizes.vector != 0
    unaligned_out = sizes.outputs % sizes.vector != 0
    return np.column_stack(
        [
            tiles * work,
            ceil_to(tiles, units) * work,
            ceil_to(tiles, 2 * units) * work,
            covered * sizes.inputs / 1e6,
            covered * sizes.outputs / 1e6,
            sizes.weights / 1e6,
            np.ceil(tiles / units) / 10,
            np.full(len(sizes.batch), 50.0),
            unaligned_in * sizes.read / 1e6,
            unaligned_out * sizes.written / 1e6,
        ]
    )


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


def search(
    sizes: Geometry, latency_us: Array, *, units: int, tilings: Sequence[Tiling] = TILINGS, seed: int = 0
) -> Expert:
    """Return the best formula of all ``tilings``, judged on up to 400 of the rows, then fitted on all."""
    rng = np.random.default_rng(seed)
    count = len(latency_us)
    some: NDArray[np.int64] = np.arange(count)
    if count > _SUBSET:
        some = rng.choice(count, _SUBSET, replace=False)
    few, times = sizes.take(some), latency_us[some]
    errors = []
    for tiling in tilings:
        scaled = parts(few, tiling, units) / times[:, None]
        weights = _nnls(scaled, np.ones(len(times)))
        errors.append(float(np.abs(scaled @ weights - 1.0).mean()))
    best = [tilings[i] for i in np.argsort(errors, kind="stable")[:_KEPT]]
    tried = [*best, *(replace(best[0], depth=depth) for depth in _DEPTHS)]
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
