"""Measured networks beside their rows, what a correction says of them, and what it says of families left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latency_model.corrections.moved import weight_bytes
from latency_model.corrections.seam import OperatorCorrection
from latency_model.errors import InputError
from latency_model.ops import Config

__all__ = [
    "Fit",
    "TimedNetwork",
    "leave_families_out",
    "leave_networks_out",
    "log_ratio",
    "predicted_us",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TimedNetwork:
    """A network that was timed, the operators that it runs, and their rows.

    ``rows_us`` has None for an operator without a row: it counts with its weights, and its time is left to the
    terms of the other operators. Raises ``InputError`` without a row at all, and for values that are not positive.
    """

    name: str
    family: str
    measured_us: float
    shapes: tuple[Config, ...]
    rows_us: tuple[float | None, ...]

    def __post_init__(self) -> None:
        if len(self.shapes) != len(self.rows_us):
            raise InputError(f"network {self.name} needs one row per operator, or None")
        rows = self.priced_us
        if not all(math.isfinite(v) for v in (self.measured_us, *rows)) or min((*rows, 0.0)) < 0:
            raise InputError(f"network {self.name}: a latency is negative or not finite")
        if self.measured_us <= 0 or self.sum_us <= 0:
            raise InputError(f"a correction needs a positive sum and measurement, which {self.name} has not")

    @property
    def priced_us(self) -> tuple[float, ...]:
        """The rows that there are."""
        return tuple(row for row in self.rows_us if row is not None)

    @property
    def sum_us(self) -> float:
        """The plain sum of the rows."""
        return math.fsum(self.priced_us)

    @property
    def total_weight_bytes(self) -> float:
        """The bytes of all weights, with those of operators that have no row."""
        return weight_bytes(self.shapes)


Fit = Callable[[Sequence[TimedNetwork]], OperatorCorrection]


def predicted_us(correction: OperatorCorrection, network: TimedNetwork) -> float:
    """Return the latency that ``correction`` makes of a network's rows."""
    total = network.total_weight_bytes
    shares = (
        correction.operator_us(shape, row, total_weight_bytes=total)
        for shape, row in zip(network.shapes, network.rows_us, strict=True)
        if row is not None
    )
    return math.fsum((correction.call_us, *shares))


def log_ratio(correction: OperatorCorrection, network: TimedNetwork) -> float:
    """Return log(measured / predicted)."""
    return math.log(network.measured_us / predicted_us(correction, network))


def leave_families_out(networks: Sequence[TimedNetwork], fit: Fit) -> Array:
    """Return log(measured / predicted) of each network by a correction that knew no network of its family.

    What ``FamilyConformal.fit`` takes, with the families in the same order. Raises ``InputError`` for fewer than
    two families.
    """
    families = [network.family for network in networks]
    if len(set(families)) < 2:
        raise InputError(
            "networks of one family cannot say how a correction does on another; measure two or more"
        )
    found = np.empty(len(networks))
    for family in dict.fromkeys(families):
        correction = fit([network for network in networks if network.family != family])
        for place, network in enumerate(networks):
            if network.family == family:
                found[place] = log_ratio(correction, network)
    return found


def leave_networks_out(networks: Sequence[TimedNetwork], fit: Fit) -> Array:
    """Return log(measured / predicted) of each network by a correction that knew all the others."""
    return np.array(
        [
            log_ratio(fit([*networks[:place], *networks[place + 1 :]]), network)
            for place, network in enumerate(networks)
        ]
    )
