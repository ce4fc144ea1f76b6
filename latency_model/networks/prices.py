"""Whole networks of a runtime that runs one kernel after the other: what each costs, and all together.

Convolutions have the prices of rows or of a regression of rows, the kernels between them prices by the bytes they
move, and a correction fitted on measured networks adds launches and the call. How far off that is comes from leaving
out one family of networks at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.conformal import NetworkIntervals
from latency_model.errors import InputError
from latency_model.networks.correction import NetworkCorrection, fit_network_correction
from latency_model.networks.glue import GluePrices, GlueSample, samples_of_trace
from latency_model.networks.kernels import Kernel, kernels_of
from latency_model.networks.read import MeasuredNetwork
from latency_model.networks.trace import align
from latency_model.shapes import ConvShape

__all__ = ["LeftOutNetwork", "NetworkPrices", "bare", "flops_per_us"]

Array = NDArray[np.float64]
ConvPrices = Callable[[Sequence[ConvShape]], Array]


@dataclass(frozen=True, slots=True)
class LeftOutNetwork:
    """A measured network, and what models without its family say of it, in microseconds."""

    name: str
    family: str
    measured_us: float
    predicted_us: float
    raw_sum_us: float
    kernels: int


@dataclass(frozen=True)
class NetworkPrices:
    """Prices of the kernels of ``runtime`` that are no convolutions, and the correction of their sums."""

    glue: GluePrices
    correction: NetworkCorrection
    families: NetworkIntervals | None = None
    runtime: str = "onnxruntime-cuda"

    @classmethod
    def fit(
        cls,
        networks: Sequence[MeasuredNetwork],
        conv_us: ConvPrices,
        *,
        samples: Sequence[GlueSample] = (),
        flops_per_us: float = 0.0,
        runtime: str = "onnxruntime-cuda",
    ) -> tuple[NetworkPrices, tuple[LeftOutNetwork, ...]]:
        """Return the prices, and each network as predicted without its family.

        ``conv_us`` prices convolutions, from rows only and never from these networks; ``samples`` are kernels of
        the rows' own traces. A network's trace prices kernels of other families than its own.
        """
        kernels = [kernels_of(network.network, runtime) for network in networks]
        traced = [
            samples_of_trace(align(own, network.trace) or ())
            for own, network in zip(kernels, networks, strict=True)
        ]
        convs = [_conv_sum(own, conv_us) for own in kernels]
        sums = np.zeros(len(networks))
        families = [network.family for network in networks]
        for family in dict.fromkeys(families):
            others = [
                s for other, mine in zip(families, traced, strict=True) if other != family for s in mine
            ]
            glue = GluePrices.fit([*samples, *others], flops_per_us=flops_per_us)
            for place in (i for i, other in enumerate(families) if other == family):
                sums[place] = convs[place] + _glue_sum(glue, kernels[place])
        counts = np.array([float(len(own)) for own in kernels])
        measured = np.array([network.measured_us for network in networks])
        predicted = _left_out(sums, counts, measured, families)
        alone = _left_out(sums, counts, measured, [str(place) for place in range(len(networks))], families)
        # Fitted on sums that no trace of their own family made, as a new network's will be.
        correction = fit_network_correction(sums.tolist(), counts.tolist(), measured.tolist(), families)
        several = len(set(families)) > 1
        made = cls(
            GluePrices.fit([*samples, *(s for mine in traced for s in mine)], flops_per_us=flops_per_us),
            correction,
            NetworkIntervals.fit(families, np.log(measured / predicted), np.log(measured / alone))
            if several
            else None,
            runtime,
        )
        return made, tuple(
            LeftOutNetwork(n.name, n.family, n.measured_us, p, s, len(k))
            for n, p, s, k in zip(networks, predicted.tolist(), sums.tolist(), kernels, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {
            "glue": self.glue.to_json(),
            "correction": self.correction.to_json(),
            "families": None if self.families is None else self.families.to_json(),
            "runtime": self.runtime,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NetworkPrices:
        """Return the prices that ``to_json`` wrote; ``InputError`` for damage."""
        try:
            families = data["families"]
            return cls(
                GluePrices.from_json(data["glue"]),
                NetworkCorrection.from_json(data["correction"]),
                None if families is None else NetworkIntervals.from_json(families),
                str(data["runtime"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"the prices of kernels are damaged ({error!r}); fit the model again") from error


def bare(shape: ConvShape) -> ConvShape:
    """Return the convolution without what runs as kernels of their own after it."""
    return replace(shape, pattern="conv")


def flops_per_us(columns: ConvColumns, latency_us: Array) -> float:
    """Return the best rate of any row, in floating-point operations per microsecond."""
    depth = columns.in_channels // columns.groups * columns.each("kernel", 0) * columns.each("kernel", 1)
    pixels = columns.batch * columns.out_height * columns.out_width
    return float((2.0 * pixels * columns.out_channels * depth / latency_us).max())


def _conv_sum(kernels: Sequence[Kernel], conv_us: ConvPrices) -> float:
    return float(conv_us([kernel.shape for kernel in kernels if kernel.shape is not None]).sum())


def _glue_sum(glue: GluePrices, kernels: Sequence[Kernel]) -> float:
    return sum(glue.price(kernel).latency_us for kernel in kernels if kernel.kind != "conv")


def _left_out(
    sums: Array, counts: Array, measured: Array, groups: Sequence[str], families: Sequence[str] | None = None
) -> Array:
    """Return each network by the correction of the other groups; with one group only, by its own.

    ``families`` are those that the corrections choose by, the groups themselves if not given.
    """
    predicted = np.empty(len(sums))
    left, names = np.array(groups), np.array(groups if families is None else families)
    for group in dict.fromkeys(groups):
        held = left == group
        seen = ~held if (~held).any() else held
        correction = fit_network_correction(
            sums[seen].tolist(), counts[seen].tolist(), measured[seen].tolist(), names[seen].tolist()
        )
        predicted[held] = [correction.apply(s, k) for s, k in zip(sums[held], counts[held], strict=True)]
    return predicted
