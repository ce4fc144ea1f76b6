"""L2 norm of filters: the other plain magnitude control.

Yang He et al., "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018
(arXiv 1808.06866) rank filters by it; here over all the slices that belong to one coupled channel, and without
the paper's training between the cuts.
"""

from __future__ import annotations

import torch

from pruner.methods.base import Problem, Values
from pruner.methods.filters import filters_of, relative

__all__ = ["L2"]


class L2:
    """Data-free magnitude criterion: root mean square weight of a channel's slices, normalised per group."""

    name = "l2"
    paper = "He et al., IJCAI 2018, arXiv 1808.06866"
    needs_data = False
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return the root of the sum over producers of the mean square weight, over its group's mean.

        Each producer counts alike, however many weights its filters have.
        """
        channels = {}
        for group in problem.graph.groups.values():
            squares = torch.zeros(group.size, dtype=torch.float64)
            for rows in filters_of(problem.model, problem.graph, group):
                squares += rows.square().mean(1)
            channels[group.name] = relative(squares.sqrt())
        return Values(channels)
