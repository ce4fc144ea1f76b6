"""L1 norm of filters: the plain control that any learned method has to beat.

Hao Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (arXiv 1608.08710), extended to coupled
channels by summing the norms of all the slices that belong to one channel.
"""

from __future__ import annotations

import numpy as np
import torch

from pruner.methods.base import Problem, Values

__all__ = ["L1"]


class L1:
    """Data-free magnitude criterion: mean absolute weight of a channel's slices, normalised per group."""

    name = "l1"
    needs_data = False
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return each channel's L1 norm over all its producers, divided by its group's mean norm."""
        tensors = dict(problem.model.named_parameters())
        channels = {}
        for group in problem.graph.groups.values():
            norm = np.zeros(group.size)
            for member in group.members:
                weight = tensors.get(member.parameter)
                if weight is None or weight.dim() < 2 or member.axis != 0:
                    continue  # biases, norms and consumers say little about what a channel carries
                positions = torch.tensor(member.indices)
                rows = weight.detach().abs().flatten(1).mean(1)
                norm += rows[positions].mean(1).cpu().numpy()
            mean = norm.mean()
            channels[group.name] = norm / mean if mean > 0 else np.ones(group.size)
        return Values(channels)
