"""From the rows of a network to its latency on a CPU: what to add to their sum, fitted on other networks.

A row is timed warm: copies of an operator read one input, again and again, and the row is what one more copy
adds. In a network the input was just written by another operator, the weights have not been read since the
last run, and the caches hold what lies between. So sums are too small where little is computed for each byte.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from latency_model.correction import fit_correction
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape

__all__ = ["FITS", "PARTS", "Network", "Terms", "part_of"]

Array = NDArray[np.float64]
PARTS = ("dense", "grouped", "depthwise", "op", "reorder")
_L2, _L3 = 1 << 20, 32 << 20
_MB = 1e6


@dataclass(frozen=True)
class Network:
    """One network: what was measured, the sums of its rows by part, and what it moves, in bytes."""

    name: str
    family: str
    measured_us: float
    sums: Mapping[str, float]
    operators: int
    weights: float  # bytes of weights that are read once a run
    near: float  # bytes of activations of operators that fit the second-level cache
    far: float  # bytes of activations of the others
    depthwise: float  # bytes of activations of depthwise convolutions
    unpriced: int = 0

    @property
    def raw_us(self) -> float:
        """The plain sum."""
        return math.fsum(self.sums.values())


def part_of(config: Config) -> str:
    """Return which of ``PARTS`` a configuration belongs to."""
    if isinstance(config, OpShape):
        return "reorder" if config.op.startswith("Reorder") else "op"
    return "depthwise" if config.depthwise else "dense" if config.groups == 1 else "grouped"


def network(
    name: str, family: str, measured_us: float, shapes: Sequence[Config], prices: Mapping[Config, float]
) -> Network:
    """Return a network of ``shapes`` with the rows ``prices``; what has none counts as unpriced."""
    sums, moved = dict.fromkeys(PARTS, 0.0), {"near": 0.0, "far": 0.0, "depthwise": 0.0}
    weights, unpriced = 0.0, 0
    for shape in shapes:
        part, read = part_of(shape), _bytes(shape)
        if shape in prices:
            sums[part] += prices[shape]
        else:
            unpriced += 1
        weights += read[1]
        moved["far" if sum(read) > _L2 else "near"] += read[0]
        moved["depthwise"] += read[0] * (part == "depthwise")
    return Network(name, family, measured_us, sums, len(shapes), weights, unpriced=unpriced, **moved)


def _bytes(shape: Config) -> tuple[float, float]:
    """Return the bytes of the activations that an operator reads and writes, and those of its weights."""
    if isinstance(shape, ConvShape):
        out = shape.out_channels * shape.out_height * shape.out_width
        image = shape.in_channels * shape.height * shape.width
        added = out if "add" in shape.pattern.split("+") else 0
        return 4.0 * shape.batch * (image + out + added), 4.0 * shape.weights
    # What it writes is as much as it reads, within a factor of two for most.
    return 8.0 * sum(map(math.prod, shape.inputs)), 4.0 * sum(map(math.prod, shape.weights))


@dataclass(frozen=True)
class Terms:
    """``latency = sum of coefficients * terms``: ridge on relative errors, pulled to the plain sum.

    ``terms`` gives a network's numbers by name; those in ``slopes`` are pulled to 1, the others to 0 and kept
    non-negative. ``scale`` is how far a coefficient may typically be from there, ``noise`` the error of a
    network that the terms do not explain.
    """

    terms: Callable[[Network], Mapping[str, float]]
    scale: Mapping[str, float]
    slopes: frozenset[str]
    noise: float = 0.03

    def fit(self, networks: Sequence[Network]) -> dict[str, float]:
        """Return the coefficients by name."""
        names = list(self.scale)
        measured = np.array([n.measured_us for n in networks])
        rows = np.array([[self.terms(n)[name] for name in names] for n in networks]) / measured[:, None]
        start = np.array([1.0 if name in self.slopes else 0.0 for name in names])
        scale = np.array([self.scale[name] for name in names])
        # In units of the scale, so that one ridge is right for all.
        left = np.vstack([rows * scale / self.noise, np.eye(len(names))])
        right = np.concatenate([(1.0 - rows @ start) / self.noise, np.zeros(len(names))])
        low = np.array([-0.9 / s if name in self.slopes else 0.0 for name, s in self.scale.items()])
        found = lsq_linear(left, right, bounds=(low, np.inf)).x
        return dict(zip(names, (start + found * scale).tolist(), strict=True))

    def apply(self, coefficients: Mapping[str, float], each: Network) -> float:
        """Return the latency of ``each``."""
        values = self.terms(each)
        return math.fsum(coefficient * values[name] for name, coefficient in coefficients.items())


# Bytes of weights from which on they begin to leave a cache between two runs, and from which on they have left:
# the second-level cache, a part of the third (rows keep their copies there, a network with its activations does
# not; other machines of the host have the rest), and all of it.
_STEPS = {
    "weights_l2_mb": (_L2, 4 * _L2),
    "weights_some_mb": (4 * _L2, _L3 / 2),
    "weights_l3_mb": (_L3 / 2, _L3),
}


def _overheads(n: Network) -> dict[str, float]:
    cold = {
        name: n.weights / _MB * float(np.clip((n.weights - low) / (high - low), 0.0, 1.0))
        for name, (low, high) in _STEPS.items()
    }
    return {
        "call": 1.0,
        "operators": float(n.operators),
        **cold,
        "near_mb": n.near / _MB,
        "far_mb": n.far / _MB,
        "depthwise_mb": n.depthwise / _MB,
    }


def _whole(n: Network) -> dict[str, float]:
    return {"sum": n.raw_us, **_overheads(n)}


def _parts(n: Network) -> dict[str, float]:
    return {**n.sums, **_overheads(n)}


# Microseconds: of a call, an operator, and a megabyte from the next cache or from memory.
_SCALE = {
    "call": 20.0,
    "operators": 0.5,
    **dict.fromkeys(_STEPS, 20.0),
    "near_mb": 10.0,
    "far_mb": 10.0,
    "depthwise_mb": 20.0,
}
_TERMS = {
    "bytes": Terms(_whole, {"sum": 0.1, **_SCALE}, frozenset({"sum"})),
    "parts": Terms(_parts, {**dict.fromkeys(PARTS, 0.15), **_SCALE}, frozenset(PARTS)),
    "slopes": Terms(lambda n: n.sums, dict.fromkeys(PARTS, 0.2), frozenset(PARTS)),
}

Predict = Callable[[Network], float]


def _raw(_: Sequence[Network]) -> Predict:
    return lambda n: n.raw_us


def _slope_and_offset(networks: Sequence[Network]) -> Predict:
    found = fit_correction([n.raw_us for n in networks], [n.measured_us for n in networks])
    return lambda n: found.apply(n.raw_us)


def _with(terms: Terms) -> Callable[[Sequence[Network]], Predict]:
    def fit(networks: Sequence[Network]) -> Predict:
        found = terms.fit(networks)
        return lambda n: terms.apply(found, n)

    return fit


FITS: dict[str, Callable[[Sequence[Network]], Predict]] = {
    "raw sum": _raw,
    "slope and offset": _slope_and_offset,
    **{name: _with(terms) for name, terms in _TERMS.items()},
}
