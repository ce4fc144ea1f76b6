"""The formulas of one device carried to another: its number of processors, tiles and factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.parts import TILINGS, Tiling
from latency_model.regression.units import UNITS
from latency_model.transfer.scaling import ERROR, Scaled, contributions, scale, scaled_expert

__all__ = ["Carried", "carry", "find_units", "same_algorithm"]

_LEAST_ROWS = 8  # that tell anything of a tiling
_SPREAD_UNITS = 0.7  # of the logarithm of numbers of processors
_LEAST_GAIN = 0.03  # of the misfit, for other tiles to be believed


@dataclass(frozen=True, eq=False)
class Carried:
    """Formulas of the new device, in microseconds there; ``common`` are the factors that all of them share."""

    experts: tuple[Expert, ...]
    common: Array
    misfit: float


def same_algorithm(tiling: Tiling) -> list[Tiling]:
    """Return the tilings that divide the image as ``tiling`` does: other kernels of the same algorithm."""
    if tiling.blocked:
        return [tiling]

    def of(one: Tiling) -> tuple[int, int, int, int]:
        return one.images, one.rows, one.columns, one.products

    return [
        replace(one, depth=tiling.depth, padded=tiling.padded) for one in TILINGS if of(one) == of(tiling)
    ]


def carry(
    experts: Sequence[Expert],
    sizes: Geometry,
    chance: Array,
    latency_us: Array,
    *,
    units: int,
    tiles: bool = True,
) -> Carried:
    """Return what ``experts`` of the other device become on the device of the rows.

    ``chance`` of shape (n, k) says which expert a row follows. With ``tiles``, each expert in turn, the most
    frequent first, takes the tiles that explain the rows best. A library's kernels for another device seldom have
    the same ones.
    """
    there = [replace(expert, units=units) for expert in experts]
    costs = np.stack(
        [chance[:, k, None] * contributions(sizes, expert) for k, expert in enumerate(there)], axis=1
    )
    typical = np.full(costs.shape[2], np.median(latency_us / costs.sum(axis=(1, 2))))
    best = scale(costs, latency_us, typical)
    weight = chance.sum(axis=0)
    for k in np.argsort(-weight, kind="stable") if tiles else ():
        if weight[k] < _LEAST_ROWS:
            break
        trials: list[tuple[float, Expert, Array]] = []
        for tiling in same_algorithm(there[k].tiling):
            other, trial = replace(there[k], tiling=tiling), costs.copy()
            trial[:, k] = chance[:, k, None] * contributions(sizes, other)
            trials.append((scale(trial, latency_us, typical, rounds=2).misfit, other, trial))
        misfit, other, trial = min(trials, key=lambda each: each[0]) if trials else (np.inf, there[k], costs)
        if misfit < best.misfit * (1.0 - _LEAST_GAIN):
            there[k], costs = other, trial
            best = scale(costs, latency_us, typical)
    return Carried(_scaled(there, best), best.common, best.misfit)


def find_units(experts: Sequence[Expert], sizes: Geometry, chance: Array, latency_us: Array) -> int:
    """Return the number of processors whose waves fit the rows best.

    A hundred rows tell it within a factor of about two, fewer less; a number near the other device's is believed
    more easily. A name tells it exactly (``processors_of``).
    """
    if all(expert.units == 1 for expert in experts):
        return 1  # the other device, a CPU, shows no waves
    before = float(np.median([expert.units for expert in experts]))
    misfits = []
    for units in UNITS:
        doubt = 0.5 * float(ERROR * np.log(units / before) / _SPREAD_UNITS) ** 2 / len(latency_us)
        found = carry(experts, sizes, chance, latency_us, units=units, tiles=False)
        misfits.append(found.misfit + doubt)
    return UNITS[int(np.argmin(misfits))]


def _scaled(experts: Sequence[Expert], found: Scaled) -> tuple[Expert, ...]:
    return tuple(
        scaled_expert(expert, factors) for expert, factors in zip(experts, found.factors, strict=True)
    )
