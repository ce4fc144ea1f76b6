"""Formulas of another device, scaled to a few measurements: each part of each formula by a factor of its own.

A sum of non-negative parts describes a row. What compute, moved bytes, waves and constants cost on the new device
relative to the old one is one factor for all formulas, and each formula's own factor is drawn towards it: a ridge
in two levels, of relative errors, as one non-negative least squares problem. It is the most probable set of factors
under normal priors (hierarchical regression; Gelman et al., Bayesian Data Analysis, chapter 15), but for the
reweighting of the rows towards the least absolute error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import nnls

from latency_model.regression.counts import GROUPS as COUNTED
from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.parts import Tiling, parts

__all__ = ["ERROR", "Scaled", "contributions", "scale", "scaled_expert"]

# Which of ``regression.parts`` are scaled together: arithmetic, moved pixels, moved weights, waves, constants.
GROUPS = (
    (0, 1, 3, 5, 7, 16, 18, 19, 21, 22, 24),
    (9, 10, 12, 13, 17, 20, 23, 26, 31),
    (11, 27, 29, 32, 34),
    (2, 4, 6, 8, 15),
    (14, 25, 28, 30, 33),
)
_OWN = 0.25  # how far a formula's factor may typically be from the common one, relative
_COMMON = 0.3  # how far the common factor may be from the typical ratio of the devices
ERROR = 0.07  # of a formula
_LEAST_ERROR = 0.03
_PER_ABSOLUTE = 1.25  # of a normal error, standard deviation over mean absolute


@dataclass(frozen=True, eq=False)
class Scaled:
    """Factors of each formula, shape (k, 5), the common ones, shape (5,), and how badly they fit."""

    factors: Array
    common: Array
    misfit: float
    error: float


def contributions(sizes: Geometry, expert: Expert) -> Array:
    """Return the microseconds of each group of parts, shape (n, 5)."""
    each = parts(sizes, expert.tiling, expert.units) * np.array(expert.weights)
    return np.column_stack([each[:, group].sum(axis=1) for group in map(list, _groups(expert.tiling))])


def scaled_expert(expert: Expert, factors: Array) -> Expert:
    """Return the formula with its parts scaled."""
    weights = np.array(expert.weights)
    for group, factor in zip(_groups(expert.tiling), factors, strict=True):
        weights[list(group)] *= factor
    return replace(expert, weights=tuple(map(float, weights)))


def _groups(tiling: Tiling) -> tuple[tuple[int, ...], ...]:
    return COUNTED if tiling.blocked else GROUPS


def scale(
    costs: Array, latency_us: Array, typical: Array, *, common: float = _COMMON, rounds: int = 4
) -> Scaled:
    """Return the factors that make ``costs`` of shape (n, k, 5) add up to ``latency_us`` of shape (n,).

    ``typical`` of shape (5,) is where the common factors are drawn to, all positive.
    """
    count, formulas, groups = costs.shape
    own = formulas * groups
    design = np.zeros((count, own + groups))
    design[:, :own] = (costs / latency_us[:, None, None]).reshape(count, own)
    prior = np.zeros((own + groups, own + groups))
    strength = np.tile(ERROR / (_OWN * typical), formulas)
    prior[np.arange(own), np.arange(own)] = strength
    prior[np.arange(own), own + np.tile(np.arange(groups), formulas)] = -strength
    prior[own + np.arange(groups), own + np.arange(groups)] = ERROR / (common * typical)
    drawn = np.concatenate([np.zeros(own), np.full(groups, ERROR / common)])
    pull = np.ones(count)
    for _ in range(rounds):
        found, _ = nnls(
            np.vstack([design * pull[:, None], prior]), np.concatenate([pull, drawn]), maxiter=5000
        )
        errors = np.abs(design @ found - 1.0)
        pull = 1.0 / np.sqrt(np.maximum(errors, _LEAST_ERROR))
        pull /= np.sqrt(np.mean(pull * pull))
    penalty = 0.5 * float(np.sum((prior @ found - drawn) ** 2))
    misfit = (float(errors.sum()) * ERROR * _PER_ABSOLUTE + penalty) / count
    return Scaled(found[:own].reshape(formulas, groups), found[own:], misfit, float(errors.mean()))
