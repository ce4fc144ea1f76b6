"""What the trees of a regressor see beside the sizes: the formulas of all families, their chances, and waves.

How a family's formula compares with those of the others says why its kernel ran: a runtime that searches picks the
fastest, so that a kernel which ran although another formula is lower was faster than its own formula says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from latency_model.regression.geometry import Array, Geometry, ceil_to

__all__ = ["LEAST_CHANCE", "likely", "mean_inputs", "own_inputs", "router_inputs"]

LEAST_CHANCE = 0.04  # of a family that is looked at
_APART = 3.0  # logarithm: no other family is nearer than this
_TILES = ((64, 32), (64, 64), (128, 32), (128, 64), (64, 128), (128, 128), (256, 64), (256, 128), (128, 256))
_MANY = 8  # waves beyond which their number tells no more


def likely(chance: Array) -> NDArray[np.bool_]:
    """Return which families, shape (n, families), are likely enough to be looked at: at least one of each row."""
    found: NDArray[np.bool_] = (chance >= LEAST_CHANCE) | (chance == chance.max(axis=1, keepdims=True))
    return found


def router_inputs(plain: Array, base: Array, costs: Array) -> Array:
    """Return what the router sees: the features, and the log formulas (n, families) over the log baseline (n,)."""
    return np.column_stack([plain, costs - base[:, None]])


def mean_inputs(seen: Array, costs: Array, chance: Array, sizes: Geometry, units: int) -> Array:
    """Return what the trees see that correct the mean of the formulas: ``seen`` is what the router saw."""
    mixed = (chance * costs).sum(axis=1)
    return np.column_stack([seen, chance, costs - mixed[:, None], _waves(sizes, units)])


def own_inputs(
    plain: Array, base: Array, costs: Array, chance: Array, row: NDArray[np.int64], family: NDArray[np.int64]
) -> Array:
    """Return what the trees see that correct the formula of one family, shape (len(row), inputs).

    ``plain``, ``base``, ``costs`` and ``chance`` are of n convolutions, ``row`` places in them, ``family`` the family
    that each place is asked about.
    """
    each = np.arange(len(row))
    others, chances = costs[row], chance[row]
    cost = others[each, family]
    mixed = (chances * others).sum(axis=1)
    rival = likely(chance)[row]
    rival[each, family] = False
    apart = np.where(rival, others - cost[:, None], _APART).min(axis=1)
    return np.column_stack(
        [
            plain[row],
            np.eye(costs.shape[1])[family],
            cost - base[row],
            cost,
            chances[each, family],
            mixed - cost,
            np.clip(apart, -_APART, _APART),
            others - cost[:, None],
        ]
    )


def _waves(sizes: Geometry, units: int) -> Array:
    """Return for each of some tiles what whole waves of them compute over what is asked for, and how many tiles."""
    wide = ceil_to(sizes.outputs, sizes.vector)
    found = []
    for span, channels in _TILES:
        tiles = np.ceil(sizes.pixels / span) * np.ceil(wide / channels)
        found.append(np.log(ceil_to(tiles, units) * span * channels / (sizes.pixels * wide)))
        found.append(np.log(np.minimum(tiles, _MANY * units)))
    return np.column_stack(found)
