"""The whole grid of a convolution site from a part of its points, with an interval for every point.

The logarithm of the latency is a mean of four terms (launch, input, output, weights and arithmetic: non-negative
least squares on relative errors) plus a Gaussian process that knows steps (``kriging``). The intervals are
those of the process, stretched where its leave-one-out errors are large and then until the left-out points are
covered: split conformal prediction with normalised scores, see Lei et al., Distribution-Free Predictive
Inference for Regression, JASA 2018, section 5.2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from latency_model.errors import InputError
from latency_model.kriging import DEFAULT_WEIGHTS, Posterior, Sample, Surface, fit_weights
from latency_model.measurement import Measurement
from latency_model.shapes import ConvShape

__all__ = ["GridModel", "Reconstruction", "axis_counts", "reconstruct", "reconstruct_many"]

Array = NDArray[np.float64]
COVERAGE = 0.95
_BLOCKS = (1, 16, 32, 64)
LEAST = 4  # measured points of a site, below which nothing is reconstructed
_Z95 = 1.959963984540054
_SHRINK = 2.0  # pseudo-observations that hold the local scale at 1
_LARGEST = 1.5  # no half interval is wider, in natural-logarithm units


@dataclass(frozen=True)
class Reconstruction:
    """Latencies at all pairs of ``inputs`` and ``outputs``: arrays indexed [input, output], microseconds.

    ``measured`` marks the points that are rows, which are kept as they are; ``low_us`` and ``high_us`` bound a
    measured median at 95 %, and where nothing was measured what a measurement would give, as often as the
    left-out points say. A depthwise site has one column: its counts move together.
    """

    site: ConvShape
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    latency_us: Array
    low_us: Array
    high_us: Array
    measured: NDArray[np.bool_]


class GridModel:
    """What the measured points of one site say; the steps between ``reconstruct`` and the adaptive plan.

    ``inputs`` and ``outputs`` span the grid. ``rows`` outside it are ignored. For a depthwise site ``outputs``
    has one entry and is not looked at.
    """

    def __init__(
        self, rows: Mapping[ConvShape, Measurement], inputs: Sequence[int], outputs: Sequence[int]
    ) -> None:
        if not rows:
            raise InputError("a grid needs measured points to be reconstructed from, and there are none")
        sites = {shape.site for shape in rows}
        if len(sites) != 1:
            raise InputError(f"one convolution site is reconstructed at a time, not {len(sites)}")
        self.site = sites.pop()
        self.surface = Surface(np.unique(inputs), np.unique(outputs))
        position = {int(c): i for i, c in enumerate(self.surface.inputs)}
        column = {int(c): i for i, c in enumerate(self.surface.outputs)}
        line = self.site.depthwise
        found = sorted(
            (position[s.in_channels], 0 if line else column[s.out_channels], s)
            for s in rows
            if s.in_channels in position and (line or s.out_channels in column)
        )
        if len(found) < min(LEAST, self.surface.shape[0] * self.surface.shape[1]):
            raise InputError(
                f"{self.site.text} has {len(found)} measured points on its grid; measure at least {LEAST}"
            )
        self.cells = np.array([(i, j) for i, j, _ in found], dtype=np.int64)
        values = [rows[s] for _, _, s in found]
        self.rows = values
        us = np.array([row.latency_us for row in values])
        self.trend = _trend(self.surface, self.cells, us)
        noise = np.array([(row.high_us - row.low_us) / (2 * _Z95 * row.latency_us) for row in values]) ** 2
        self.sample = Sample(
            self.surface,
            self.cells,
            np.log(us) - self.trend[self.cells[:, 0], self.cells[:, 1]],
            np.minimum(noise, 0.05),
        )
        self.posterior: Posterior | None = None

    def condition(self, weights: Array) -> Posterior:
        """Fit the process; everything below needs that once."""
        self.posterior = Posterior(self.sample, weights)
        return self.posterior

    @property
    def error(self) -> float:
        """Mean relative error of the points left out one at a time, none counted as more than a half."""
        assert self.posterior is not None
        return float(np.minimum(np.abs(self.posterior.residual), 0.5).mean())

    def local_scale(self) -> Array:
        """Return per cell how much larger than expected the left-out errors around it are."""
        assert self.posterior is not None
        score = self.posterior.residual**2 / self.posterior.variance
        weights = self._near()
        pull = np.minimum(score, 9.0)
        return np.sqrt(
            (np.einsum("ik,jk,k->ij", *weights, pull) + _SHRINK)
            / (np.einsum("ik,jk->ij", *weights) + _SHRINK)
        )

    def _near(self) -> tuple[Array, Array]:
        width = max(0.08, 0.7 / math.sqrt(len(self.cells)))
        found = []
        for axis, size in enumerate(self.surface.shape):
            at = np.linspace(0.0, 1.0, size)
            found.append(np.exp(-0.5 * ((at[:, None] - at[self.cells[:, axis]][None]) / width) ** 2))
        return found[0], found[1]

    def reconstruction(self) -> Reconstruction:
        """Return the grid, measured points as they are."""
        assert self.posterior is not None
        shape = self.surface.shape
        log_us = self.trend + self.posterior.mean
        every = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 2)
        scale = self.local_scale()
        i, j = self.cells[:, 0], self.cells[:, 1]
        score = np.abs(self.posterior.residual) / (np.sqrt(self.posterior.variance) * scale[i, j])
        n = len(score)
        rank = min(math.ceil((n + 1) * COVERAGE), n)
        quantile = max(float(np.sort(score)[rank - 1]), 1.0)
        if n < 20:  # too few left-out points for a 95 % quantile of their own
            quantile = max(quantile, 3.0)
        half = np.sqrt(self.posterior.variances(every).reshape(shape)) * scale * quantile
        half = np.minimum(half, _LARGEST)
        us, low, high = np.exp(log_us), np.exp(log_us - half), np.exp(log_us + half)
        measured = np.zeros(shape, dtype=bool)
        measured[i, j] = True
        us[i, j] = [row.latency_us for row in self.rows]
        low[i, j] = [row.low_us for row in self.rows]
        high[i, j] = [row.high_us for row in self.rows]
        return Reconstruction(self.site, self.surface.inputs, self.surface.outputs, us, low, high, measured)


def _trend(surface: Surface, cells: NDArray[np.int64], us: Array) -> Array:
    """Return the logarithm of launch + input + output + product terms, all of them non-negative.

    The counts are rounded up to a block, as a kernel computes whole blocks of channels: the block of each axis
    that fits best.
    """
    best, least = np.zeros(surface.shape), math.inf
    for block_in, block_out in itertools.product(_BLOCKS, repeat=2):
        a = np.ceil(surface.inputs / block_in)[:, None] * block_in
        b = np.ceil(surface.outputs / block_out)[None] * block_out
        terms = np.stack(np.broadcast_arrays(1.0, a, b, a * b), axis=-1)
        relative = terms[cells[:, 0], cells[:, 1]] / us[:, None]
        size = relative.mean(axis=0)
        factors, misfit = nnls(relative / size, np.ones(len(us)))
        # A coarser block must be clearly better: with few points some block always fits by chance.
        if misfit < 0.95 * least:
            best, least = np.log(np.maximum(terms @ (factors / size), 0.5 * us.min())), misfit
    return best


def axis_counts(counts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all counts of the grid of which ``counts`` are a part: the multiples of its step, and its ends."""
    seen = np.unique(counts)
    if len(seen) < 3:
        return seen
    step = int(np.gcd.reduce(np.diff(seen)))
    return np.unique(np.concatenate([np.arange(int(seen[0]), int(seen[-1]) + 1, step), seen]))


def reconstruct(
    rows: Mapping[ConvShape, Measurement],
    inputs: Sequence[int],
    outputs: Sequence[int],
    *,
    weights: Array | None = None,
) -> Reconstruction:
    """Return the latencies of one site at all pairs of ``inputs`` and ``outputs``, from ``rows``.

    Deterministic. Measured points are returned exactly. ``weights`` are those of ``fit_weights``, fitted on
    ``rows`` alone if not given: sites of one device and batch are better fitted together, with
    ``reconstruct_many``. Raises ``InputError`` when fewer than four points of the grid are measured.
    """
    model = GridModel(rows, inputs, outputs)
    model.condition(fit_weights([model.sample]) if weights is None else weights)
    return model.reconstruction()


def reconstruct_many(
    groups: Sequence[tuple[Mapping[ConvShape, Measurement], Sequence[int], Sequence[int]]],
) -> list[Reconstruction]:
    """Return ``reconstruct`` of several sites (rows, inputs, outputs) whose covariance is fitted together."""
    models = [GridModel(*group) for group in groups]
    weights = fit_weights([model.sample for model in models]) if models else DEFAULT_WEIGHTS
    for model in models:
        model.condition(weights)
    return [model.reconstruction() for model in models]
