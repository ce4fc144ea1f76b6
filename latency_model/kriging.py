"""Gaussian-process regression over a grid of channel counts, with covariances made for staircases.

The covariance is a sum of products of one function per axis, so that "a step at 64 output channels, whatever
the input channels" is one of its parts: a step seen in one row is then known in all of them. The exponential
covariance is that of a random step function. See Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006: 5.4.2 for the closed form of the leave-one-out residuals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.optimize import minimize

__all__ = ["DEFAULT_WEIGHTS", "Posterior", "Sample", "Surface", "fit_weights"]

Array = NDArray[np.float64]
Cells = NDArray[np.int64]  # rows of (index of the input count, index of the output count)

# Per part: the covariance along the input channels, that along the output channels, and its usual variance
# in natural-logarithm units squared. The last weight, of no part, is that of what no other point tells.
_PARTS = (
    ("one", "one", 1e-3),
    ("flat", "flat", 5e-2),
    ("bent", "bent", 1e-3),
    ("one", "steps", 1e-3),
    ("steps", "one", 1e-3),
    ("bent", "steps", 1e-3),
    ("steps", "bent", 1e-3),
    ("steps", "steps", 3e-4),
    ("bent", "jags", 3e-4),
    ("jags", "bent", 3e-4),
    ("aligned", "bent", 1e-3),
    ("bent-aligned", "bent", 5e-4),
    ("steps-aligned", "steps", 1e-4),
    ("bent", "aligned", 3e-4),
    ("bent", "bent-aligned", 3e-4),
)
DEFAULT_WEIGHTS: Array = np.array([*(weight for _, _, weight in _PARTS), 2e-4])
DEFAULT_WEIGHTS.setflags(write=False)
_PRIOR_SD = 2.0  # of the logarithm of a weight
_JITTER = 1e-9
_FIT_POINTS, _FIT_CALLS = 110, 40
_OUTLIER = 2.5
_SOLVE_FLOPS = 4e10
_MANY = 1500  # points beyond which a second look at the outliers takes too long


def _axis(counts: NDArray[np.int64]) -> dict[str, Array]:
    """Return the covariance matrices of one axis by name."""
    logs, linear = np.log2(counts), counts.astype(np.float64)
    apart = np.abs(linear[:, None] - linear[None])
    twos = np.array([min((int(c) & -int(c)).bit_length(), 8) for c in counts])
    aligned = (twos[:, None] == twos[None]).astype(np.float64)

    def matern(scale: float) -> Array:
        d = np.abs(logs[:, None] - logs[None]) * np.sqrt(5.0) / scale
        return (1.0 + d + d * d / 3.0) * np.exp(-d)

    bent, steps = matern(1.0), np.exp(-apart / 64.0)
    return {
        "one": np.ones_like(apart),
        "flat": matern(3.0),
        "bent": bent,
        "steps": steps,
        "jags": np.exp(-apart / 8.0),
        "aligned": aligned,
        "bent-aligned": bent * aligned,
        "steps-aligned": steps * aligned,
    }


def _root(matrix: Array) -> Array:
    return np.asarray(np.linalg.cholesky(matrix), dtype=np.float64)


class Surface:
    """The cells of one grid and how they vary together."""

    def __init__(self, inputs: Sequence[int] | NDArray[np.int64], outputs: Sequence[int] | NDArray[np.int64]):
        self.inputs, self.outputs = np.asarray(inputs, np.int64), np.asarray(outputs, np.int64)
        self._rows, self._columns = _axis(self.inputs), _axis(self.outputs)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of input and output counts."""
        return len(self.inputs), len(self.outputs)

    def stack(self, cells: Cells) -> Array:
        """Return the covariances between ``cells``, one matrix per part."""
        p, q = np.ix_(cells[:, 0], cells[:, 0]), np.ix_(cells[:, 1], cells[:, 1])
        return np.stack([self._rows[a][p] * self._columns[b][q] for a, b, _ in _PARTS])

    def _products(self, weights: Array) -> list[tuple[Array, Array]]:
        """Return the parts as few products: those with the same covariance along the inputs are one."""
        merged: dict[str, Array] = {}
        for (a, b, _), weight in zip(_PARTS, weights[:-1], strict=True):
            if weight > _JITTER:
                merged[a] = merged.get(a, 0.0) + weight * self._columns[b]
        return [(self._rows[a], columns) for a, columns in merged.items()]

    def between(self, first: Cells, second: Cells, weights: Array) -> Array:
        """Return the covariance of each of ``first`` with each of ``second``."""
        p, q = np.ix_(first[:, 0], second[:, 0]), np.ix_(first[:, 1], second[:, 1])
        total = np.zeros((len(first), len(second)))
        for rows, columns in self._products(weights):
            total += rows[p] * columns[q]
        return total

    def spread(self, cells: Cells, values: Array, weights: Array) -> Array:
        """Return the covariance of every cell of the grid with ``cells``, times ``values``."""
        loads = np.zeros(self.shape)
        loads[cells[:, 0], cells[:, 1]] = values
        total = np.zeros(self.shape)
        for rows, columns in self._products(weights):
            total += rows @ loads @ columns
        return total


@dataclass(frozen=True)
class Sample:
    """Values seen at some cells of a surface, and the variance of the error of each."""

    surface: Surface
    cells: Cells
    values: Array
    noise: Array


@dataclass
class Posterior:
    """What a sample says of the whole surface.

    ``residual`` and ``variance`` are, per sampled cell, its distance from what the others say and the variance
    of that. Cells far off lose most of their say on the others.
    """

    sample: Sample
    weights: Array
    mean: Array = field(init=False)
    residual: Array = field(init=False)
    variance: Array = field(init=False)
    _root: Array = field(init=False)

    def __post_init__(self) -> None:
        s, own = self.sample, float(self.weights[-1])
        within = s.surface.between(s.cells, s.cells, self.weights)
        nugget = own + s.noise
        base = nugget.copy()
        for last in (False, False, True) if len(base) < _MANY else (False, True):
            root = _root(within + np.diag(nugget + _JITTER))
            pull = cho_solve((root, True), s.values)
            diagonal = np.diag(dpotri(root, lower=1)[0])
            residual, variance = pull / diagonal, 1.0 / diagonal
            if not last:
                # How far off under the usual nugget, however much this cell's was raised before.
                usual = np.maximum(variance - nugget + base, base)
                nugget = np.where(residual**2 > _OUTLIER**2 * usual, np.maximum(3 * base, residual**2), base)
        self._root, self.residual, self.variance = root, residual, np.maximum(variance - nugget + base, base)
        self.mean = s.surface.spread(s.cells, pull, self.weights)

    def variances(self, cells: Cells) -> Array:
        """Return the variance of the value at each of ``cells``, its own part included."""
        s, found = self.sample, []
        own = float(self.weights[:-1].sum() + self.weights[-1])
        root, seen = self._root, s.cells
        if len(seen) ** 2 * len(cells) > _SOLVE_FLOPS:  # every other point: wider, and within seconds
            seen = seen[:: int(np.ceil(np.sqrt(len(seen) ** 2 * len(cells) / _SOLVE_FLOPS)))]
            own_part = float(self.weights[-1]) + _JITTER
            root = _root(s.surface.between(seen, seen, self.weights) + own_part * np.eye(len(seen)))
        for start in range(0, len(cells), 4096):
            across = s.surface.between(seen, cells[start : start + 4096], self.weights)
            half = solve_triangular(root, across, lower=True)
            found.append(own - np.einsum("ij,ij->j", half, half))
        return np.maximum(np.concatenate(found), float(self.weights[-1])) if found else np.zeros(0)

    def most_uncertain(self, cells: Cells, scale: Array, count: int) -> NDArray[np.int64]:
        """Return the positions in ``cells`` to sample next, one after the other: greatest variance times scale.

        After each the variances are those that it will leave, so that the next is not beside it.
        """
        s = self.sample
        half = solve_triangular(self._root, s.surface.between(s.cells, cells, self.weights), lower=True)
        known = len(half)
        half = np.vstack([half, np.zeros((count, len(cells)))])
        own = float(self.weights[-1])
        left = float(self.weights[:-1].sum()) - np.einsum("ij,ij->j", half, half)
        score, chosen = scale**2, []
        free = np.ones(len(cells), dtype=bool)
        for turn in range(min(count, len(cells))):
            best = int(np.argmax(np.where(free, (np.maximum(left, 0.0) + own) * score, -1.0)))
            chosen.append(best)
            free[best] = False
            row = known + turn
            column = s.surface.between(cells[best : best + 1], cells, self.weights)[0]
            column -= half[:row, best] @ half[:row]
            half[row] = column / np.sqrt(max(left[best], 0.0) + own + _JITTER)
            left = left - half[row] ** 2
        return np.array(chosen, dtype=np.int64)


def fit_weights(samples: Sequence[Sample], start: Array | None = None) -> Array:
    """Return the weights under which ``samples`` are likeliest together, drawn to the usual ones.

    A part of the cells of each sample is used, evenly from all of them.
    """
    prepared = []
    for sample in samples:
        if len(sample.values) >= 4:
            chosen = np.unique(np.linspace(0, len(sample.values) - 1, _FIT_POINTS).astype(np.int64))
            values = np.clip(sample.values[chosen], -1.0, 1.0)
            prepared.append((sample.surface.stack(sample.cells[chosen]), values, sample.noise[chosen]))
    usual = np.log(DEFAULT_WEIGHTS)
    if not prepared:
        return DEFAULT_WEIGHTS.copy()
    flat = [parts.reshape(len(parts), -1) for parts, _, _ in prepared]

    def loss(logs: Array) -> tuple[float, Array]:
        weights = np.exp(logs)
        away = (logs - usual) / _PRIOR_SD
        total, gradient = 0.5 * float(away @ away), np.zeros_like(logs)
        for (_, values, noise), parts in zip(prepared, flat, strict=True):
            n = len(values)
            matrix: Array = (weights[:-1] @ parts).reshape(n, n) + np.diag(weights[-1] + noise + _JITTER)
            root = _root(matrix)
            inverse = cho_solve((root, True), np.eye(n))
            pull = inverse @ values
            total += 0.5 * float(values @ pull) + float(np.log(np.diag(root)).sum())
            slope = inverse - np.outer(pull, pull)
            gradient[:-1] += 0.5 * (parts @ slope.ravel())
            gradient[-1] += 0.5 * np.trace(slope)
        return total, gradient * weights + away / _PRIOR_SD

    # The likelihood has several tops: one is looked for from mostly smooth, one from mostly stairs.
    stairs = np.array([np.log(0.1 if "one" in (a, b) and "steps" in (a, b) else 1e-4) for a, b, _ in _PARTS])
    starts = [usual, np.append(stairs, np.log(1e-4))] if start is None else [np.log(start)]
    found = [
        minimize(
            loss,
            first,
            jac=True,
            method="L-BFGS-B",
            bounds=[(-16.0, 3.0)] * len(usual),
            options={"maxfun": _FIT_CALLS},
        )
        for first in starts
    ]
    return np.asarray(np.exp(min(found, key=lambda one: one.fun).x), dtype=np.float64)
