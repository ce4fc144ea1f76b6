"""What a network costs as a function of the channel counts of its groups, for every metric one form.

A cost is a sum of site matrices ``M[in, out]`` over the sites (``M[count]`` where a site is depthwise),
plus a constant. Latency has the matrices
of the table; multiply-accumulates and parameters have outer products, so the allocator and the gates see
one kind of thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latency_model.network import NetworkCost, OpSite, Site

if TYPE_CHECKING:
    from latency_model.model import LatencyModel

__all__ = ["Cost", "latency_cost", "macs_cost", "params_cost"]


@dataclass(frozen=True)
class Cost:
    """A metric of one network: per site a matrix indexed by (in count, out count), in the metric's unit.

    Every convolution has a matrix; other operators may have one.

    ``value = scale * sum(matrices at counts) + constant``. ``raw`` matrices may be non-monotone;
    ``matrices`` are what a count can always be served for (the pad-up envelope, for latency).
    """

    metric: str
    network: NetworkCost
    matrices: Mapping[str, np.ndarray]
    scale: float = 1.0
    constant: float = 0.0

    def value(self, counts: Mapping[str, int]) -> float:
        """Return the metric at ``counts``; groups that are not named count in full."""
        full = self.network.counts(counts)
        return sum(self.site_value(site, full) for site in self.sites) + self.constant

    @property
    def sites(self) -> tuple[Site | OpSite, ...]:
        """What the metric is a sum over: the convolutions, and other operators that have a matrix."""
        return self.network.priced(self.matrices)

    def site_value(self, site: Site | OpSite, counts: Mapping[str, int]) -> float:
        """Return what one site contributes at ``counts``, which name every group; the constant not included."""
        matrix = self.matrices[site.name]
        into, out = site.inputs.count(counts), site.outputs.count(counts)
        return self.scale * float(matrix[into] if matrix.ndim == 1 else matrix[into, out])

    @property
    def full(self) -> float:
        """The metric of the network as it is."""
        return self.value({})


def latency_cost(model: LatencyModel, network: NetworkCost) -> Cost:
    """Return the latency of ``network`` in microseconds: envelope matrices, each corrected, and the call."""
    matrices = model.matrices(network, "envelope", corrected=True)
    return Cost("latency", network, matrices, constant=model.correction.call_us)


def _outer(network: NetworkCost, metric: str) -> Cost:
    matrices = {}
    for site in network.sites:
        shape = site.shape
        per_pair = (shape.macs if metric == "macs" else shape.weights) / (
            shape.in_channels * shape.out_channels
        )
        if shape.depthwise:
            matrix = np.arange(shape.in_channels + 1) * (per_pair * shape.out_channels)
        else:
            matrix = per_pair * np.outer(np.arange(shape.in_channels + 1), np.arange(shape.out_channels + 1))
        matrices[site.name] = matrix
    return Cost(metric, network, matrices)


def macs_cost(network: NetworkCost) -> Cost:
    """Return the multiply-accumulates of the convolutions, whole batch."""
    return _outer(network, "macs")


def params_cost(network: NetworkCost) -> Cost:
    """Return the weights of the convolutions (biases, norms and linear layers not counted)."""
    return _outer(network, "params")
