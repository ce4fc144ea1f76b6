"""Channels in a random order: what a ranking has to be better than.

Random channels recover better than one would think: Mittal et al., "Recovering from Random Pruning: On the
Plasticity of Deep Convolutional Neural Networks", WACV 2018 (arXiv 1801.10447).
"""

from __future__ import annotations

import numpy as np

from pruner.data.seeds import mix_seed
from pruner.methods.base import Problem, Values

__all__ = ["Random"]


class Random:
    """Control: random channels, as many per group as the allocator grants; another seed, another choice."""

    name = "random"
    paper = "Mittal et al., WACV 2018, arXiv 1801.10447"
    needs_data = False
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return uniform numbers in [0, 1); those of a group depend on the seed and the group's name alone."""
        return Values(
            {
                name: np.random.default_rng(mix_seed("random", problem.seed, name)).random(group.size)
                for name, group in problem.graph.groups.items()
            }
        )
