"""Fit the terms of networks on a processor: ridge towards no correction, so that only what is needed is corrected.

The squared relative residuals of the networks, in units of what a network's measurement leaves open, plus the
squared deviations of the coefficients from (slope 1, terms 0), in units of what they typically are: Bayes' linear
regression with independent normal priors, truncated where a term would be negative (Hoerl and Kennard 1970;
bounded least squares by Branch, Coleman and Li 1999). The slope is a common one and deviations of the parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from latency_model.corrections.moved import PARTS, Caches, moved, part_of
from latency_model.corrections.terms import TERMS, TermsCorrection, terms
from latency_model.corrections.timed import TimedNetwork

__all__ = ["fit_terms"]

Array = NDArray[np.float64]
# Typical sizes: of a common slope and of a part's own deviation, then of TERMS (an operator half a microsecond, a
# megabyte from the next level 10 to 20), then of a call, all in microseconds.
_SLOPE, _PART = 0.1, 0.07
_TYPICAL = np.array([_SLOPE, *(_PART,) * len(PARTS), 0.5, 20.0, 20.0, 10.0, 20.0, 20.0])
# What a network's measurement leaves open: a part of it, and microseconds (readings of small networks scatter by
# 50 to 90 us between processes on a shared machine, those of large ones by 2 %).
_RELATIVE, _ABSOLUTE_US = 0.05, 50.0
# No slope gets below 1 - 0.6 - 0.3.
_LOWEST = np.array([-0.6, *(-0.3,) * len(PARTS), *(0.0,) * (len(TERMS) + 1)])
_NOTHING = 1e-6
# How far the truth typically is from a plain sum where no network was measured, and the least spread to report.
_UNMEASURED, _LEAST_SPREAD, _FEW = 0.12, 0.02, 3


def fit_terms(
    networks: Sequence[TimedNetwork], *, caches: Caches | None = None, judged: bool = True
) -> TermsCorrection:
    """Return slopes and terms fitted on ``networks``, whose rows were timed with warm caches; without any, none.

    One network is enough: the pull to no correction decides what a few networks cannot tell apart. (Over random
    choices of 1 to 16 of the networks in benchmarks/networks_cpu it was closer than a slope and an offset at every
    number, to networks of the same and of other families, and where only convolutions had rows.) A network that
    was measured is not met exactly.

    The spread is that of families left out, or of networks left out where there are fewer than three families;
    not ``judged`` it is that of no networks, which takes a tenth of the time.
    """
    sizes = Caches() if caches is None else caches
    design = np.array([_row(network, sizes) for network in networks]).reshape(-1, len(_TYPICAL))
    measured = np.array([network.measured_us for network in networks])
    found = _solve(design, measured)
    slopes, added = found[: len(PARTS)], found[len(PARTS) : -1]
    return TermsCorrection(
        slopes=dict(zip(PARTS, slopes.tolist(), strict=True)),
        **dict(zip(TERMS, added.tolist(), strict=True)),
        call_us=float(found[-1]),
        networks=len(networks),
        spread=_spread(design, measured, [n.family for n in networks]) if judged else _UNMEASURED,
        caches=sizes,
    )


def _row(network: TimedNetwork, caches: Caches) -> Array:
    """Return what the coefficients are multiplied with: the sum, the sums of parts, the terms, and one call."""
    cold = caches.cold(network.total_weight_bytes)
    sums, added = dict.fromkeys(PARTS, 0.0), np.zeros(len(TERMS))
    for shape, row in zip(network.shapes, network.rows_us, strict=True):
        if row is not None:
            part = part_of(shape)
            sums[part] += row
            added += np.array(terms(part, moved(shape), cold, caches), dtype=np.float64)
    return np.array([network.sum_us, *sums.values(), *added, 1.0])


def _solve(design: Array, measured: Array) -> Array:
    """Return the slopes of the parts, the coefficients of the terms, and what a call costs."""
    rows = design / measured[:, None]
    noise = np.hypot(_RELATIVE, _ABSOLUTE_US / measured)
    left = np.vstack([rows * _TYPICAL / noise[:, None], np.eye(len(_TYPICAL))])
    # The first column is the plain sum, which a correction of nothing leaves as it is.
    right = np.concatenate([(1.0 - rows[:, 0]) / noise, np.zeros(len(_TYPICAL))])
    found = np.asarray(lsq_linear(left, right, bounds=(_LOWEST / _TYPICAL, np.inf)).x)
    # The solver stays a little inside its bounds, and so off 0 where nothing is to be corrected.
    found = np.where(np.abs(found) < _NOTHING, 0.0, found) * _TYPICAL
    return np.concatenate([1.0 + found[0] + found[1 : 1 + len(PARTS)], found[1 + len(PARTS) :]])


def _spread(design: Array, measured: Array, families: Sequence[str]) -> float:
    """Return the root mean square of the relative residuals of families left out, of few the networks left out."""
    if len(measured) < _FEW:
        found = 1.0 - design[:, 1:] @ _solve(design, measured) / measured
        return max(_LEAST_SPREAD, math.hypot(_rms(found), _UNMEASURED / (1 + len(measured))))
    groups = np.array(families if len(set(families)) >= _FEW else [str(p) for p in range(len(measured))])
    left = np.empty(len(measured))
    for group in set(groups.tolist()):
        held = groups == group
        left[held] = 1.0 - design[held, 1:] @ _solve(design[~held], measured[~held]) / measured[held]
    return max(_LEAST_SPREAD, _rms(left))


def _rms(values: Array) -> float:
    return float(np.sqrt((values**2).mean())) if len(values) else 0.0
