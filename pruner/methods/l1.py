"""L1 norm of filters: the plain control that any learned method has to beat.

Hao Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (arXiv 1608.08710), extended to coupled
channels by summing the norms of all the slices that belong to one channel.
"""

from __future__ import annotations

import torch

from pruner.methods.base import Problem, Values
from pruner.methods.filters import filters_of, relative

__all__ = ["L1"]


class L1:
    """Data-free magnitude criterion: mean absolute weight of a channel's slices, normalised per group."""

    name = "l1"
    paper = "Li et al., ICLR 2017, arXiv 1608.08710"
    needs_data = False
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return each channel's L1 norm over all its producers, divided by its group's mean norm."""
        channels = {}
        for group in problem.graph.groups.values():
            norm = torch.zeros(group.size, dtype=torch.float64)
            for rows in filters_of(problem.model, problem.graph, group):
                norm += rows.abs().mean(1)
            channels[group.name] = relative(norm)
        return Values(channels)
