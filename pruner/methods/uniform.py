"""The same share of channels everywhere: what choosing the counts has to be better than.

The "uniform" baseline of Li et al. (arXiv 1608.08710) and Liu et al., "Rethinking the Value of Network Pruning",
ICLR 2019 (arXiv 1810.05270), who found predefined widths hard to beat.
"""

from __future__ import annotations

from pruner.methods.base import Problem, Values
from pruner.methods.l1 import L1

__all__ = ["Uniform"]


class Uniform:
    """Control: every group keeps the same share of its channels, those of largest L1 norm; no block goes."""

    name = "uniform"
    paper = "Liu et al., ICLR 2019, arXiv 1810.05270"
    needs_data = False
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return the values of ``L1`` and one share for all groups; the budget decides how large it is."""
        return Values(L1().values(problem).channels, shares=dict.fromkeys(problem.graph.groups, 1.0))
