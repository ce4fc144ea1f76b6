"""A Gaussian process on few points: what formulas leave over.

The covariance is a constant, a linear kernel and a Matern 5/2 kernel with a length for each input; its
hyperparameters are the most probable ones under log-normal priors, without which thirty points would choose
absurd ones. Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2, 4 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from latency_model.regression.geometry import Array

__all__ = ["Process"]

# Medians and widths of the priors, of the logarithms: lengths in units of an input, then standard deviations.
_LENGTH = (2.0, 0.7)
_AMPLITUDE, _SLOPE, _NOISE = (0.1, 0.7), (0.1, 0.7), (0.05, 0.5)
_CHOOSING = 300  # points that hyperparameters are chosen by
_MOST = 600  # points that are kept
_BLOCK = 2000


@dataclass(frozen=True, eq=False)
class Process:
    """``inputs`` of shape (n, d) enter the Matern kernel, ``linear`` of shape (n, l) the linear one.

    ``values`` of shape (n,) are what was seen, less ``middle``. ``theta`` are the logarithms of d lengths, of the
    amplitude, of the slopes and of the noise.
    """

    inputs: Array
    linear: Array
    values: Array
    middle: float
    theta: Array

    @classmethod
    def fit(cls, inputs: Array, linear: Array, values: Array, *, seed: int = 0) -> Process:
        """Return the process that saw ``values``; of more than 600, as many drawn at random."""
        rng = np.random.default_rng(seed)
        if len(values) > _MOST:
            kept = np.sort(rng.choice(len(values), _MOST, replace=False))
            inputs, linear, values = inputs[kept], linear[kept], values[kept]
        middle = float(np.median(values))
        values = values - middle
        few = np.arange(len(values))
        if len(few) > _CHOOSING:
            few = rng.choice(len(values), _CHOOSING, replace=False)
        center, width = _priors(inputs.shape[1])

        def loss(theta: Array) -> tuple[float, Array]:
            value, slope = _minus_log_likelihood(theta, inputs[few], linear[few], values[few])
            apart = (theta - center) / width
            return value + 0.5 * float(apart @ apart), slope + apart / width

        found = minimize(loss, center, jac=True, method="L-BFGS-B", options={"maxiter": 60})
        return cls(inputs, linear, values, middle, np.asarray(found.x, dtype=np.float64))

    def predict(self, inputs: Array, linear: Array) -> tuple[Array, Array]:
        """Return the mean and the standard deviation of a new value, noise included, each of shape (m,)."""
        means, deviations = [np.zeros(0)], [np.zeros(0)]
        noise = np.exp(2.0 * self.theta[-1])
        for begin in range(0, len(inputs), _BLOCK):
            block, straight = inputs[begin : begin + _BLOCK], linear[begin : begin + _BLOCK]
            across = _covariance(self.theta, block, self.inputs, straight, self.linear)
            own = (
                1.0 + np.exp(2.0 * self.theta[-3]) + np.exp(2.0 * self.theta[-2]) * (straight**2).sum(axis=1)
            )
            known = np.einsum("ij,ji->i", across, cho_solve(self._factor, across.T))
            means.append(self.middle + across @ self._solved)
            deviations.append(np.sqrt(np.maximum(own - known, 0.0) + noise))
        return np.concatenate(means), np.concatenate(deviations)

    def left_out(self) -> tuple[Array, Array]:
        """Return the error of each point, seen less predicted from all others, and its standard deviation."""
        inverse = np.diag(cho_solve(self._factor, np.eye(len(self.values))))
        return self._solved / inverse, 1.0 / np.sqrt(inverse)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what ``from_arrays`` makes the same process of."""
        found: dict[str, NDArray[Any]] = {
            name: getattr(self, name) for name in ("inputs", "linear", "values", "theta")
        }
        return {**found, "middle": np.array(self.middle)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> Process:
        """Return the process whose ``arrays`` these are."""
        seen, middle = (arrays["inputs"], arrays["linear"], arrays["values"]), float(arrays["middle"])
        return cls(*seen, middle, arrays["theta"])

    @cached_property
    def _factor(self) -> Any:
        covariance = _covariance(self.theta, self.inputs, self.inputs, self.linear, self.linear)
        covariance[np.diag_indices(len(self.values))] += np.exp(2.0 * self.theta[-1])
        return cho_factor(covariance, lower=True)

    @cached_property
    def _solved(self) -> Array:
        found: Array = cho_solve(self._factor, self.values)
        return found


def _priors(inputs: int) -> tuple[Array, Array]:
    each = [*[_LENGTH] * inputs, _AMPLITUDE, _SLOPE, _NOISE]
    return np.log([median for median, _ in each]), np.array([width for _, width in each])


def _covariance(theta: Array, one: Array, other: Array, line_one: Array, line_other: Array) -> Array:
    lengths = np.exp(theta[:-3])
    one, other = one / lengths, other / lengths
    squares = (one * one).sum(axis=1)[:, None] + (other * other).sum(axis=1)[None, :] - 2.0 * one @ other.T
    far = np.sqrt(5.0 * np.maximum(squares, 0.0))
    curved = np.exp(2.0 * theta[-3] - far) * (1.0 + far + far * far / 3.0)
    found: Array = 1.0 + curved + np.exp(2.0 * theta[-2]) * (line_one @ line_other.T)
    return found


def _minus_log_likelihood(theta: Array, inputs: Array, linear: Array, values: Array) -> tuple[float, Array]:
    """Return the value and its slope in ``theta``."""
    count = len(values)
    scaled = inputs / np.exp(theta[:-3])
    apart = (scaled[:, None, :] - scaled[None, :, :]) ** 2
    far = np.sqrt(5.0 * apart.sum(axis=2))
    decay = np.exp(2.0 * theta[-3] - far)
    curved = decay * (1.0 + far + far * far / 3.0)
    straight = np.exp(2.0 * theta[-2]) * (linear @ linear.T)
    noise = np.exp(2.0 * theta[-1])
    covariance = 1.0 + curved + straight + noise * np.eye(count)
    try:
        factor = cho_factor(covariance, lower=True)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(theta)
    solved = cho_solve(factor, values)
    value = 0.5 * float(values @ solved) + float(np.log(np.diag(factor[0])).sum())
    outer = cho_solve(factor, np.eye(count)) - np.outer(solved, solved)
    slope = np.empty_like(theta)
    slope[:-3] = 0.5 * np.einsum("ij,ijd->d", outer * (5.0 / 3.0) * (1.0 + far) * decay, apart)
    slope[-3] = float((outer * curved).sum())
    slope[-2] = float((outer * straight).sum())
    slope[-1] = float(np.trace(outer)) * noise
    return value, slope
