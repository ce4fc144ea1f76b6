"""Filter pruning via geometric median: cut what the other filters can stand in for, not what is small.

Yang He et al., "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration", CVPR
2019 (arXiv 1811.00250), equation 6: the filters nearest to the geometric median of their layer are those with
the least sum of Euclidean distances to the others. A coupled channel is one vector of all its slices.
"""

from __future__ import annotations

import torch

from pruner.methods.base import Problem, Values
from pruner.methods.filters import filters_of, relative

__all__ = ["Fpgm"]


class Fpgm:
    """Data-free redundancy criterion: a channel's summed distance to the other channels of its group."""

    name = "fpgm"
    paper = "He et al., CVPR 2019, arXiv 1811.00250"
    needs_data = False
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return each channel's sum of Euclidean distances to its group's channels, over the group's mean."""
        channels = {}
        for group in problem.graph.groups.values():
            matrices = filters_of(problem.model, problem.graph, group)
            distances = torch.zeros(group.size, dtype=torch.float64)
            if matrices:
                rows = torch.cat(matrices, dim=1)
                # The fast form, by inner products, loses the digits that tell near filters apart.
                exact = "donot_use_mm_for_euclid_dist"
                distances = torch.cdist(rows, rows, compute_mode=exact).sum(1)
            channels[group.name] = relative(distances)
        return Values(channels)
