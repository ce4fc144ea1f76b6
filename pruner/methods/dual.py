"""A budget in place of a weight: lambda follows the logarithm of an expected cost over its target, by dual ascent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from pruner.cost import Cost
from pruner.methods.prices import Price
from pruner.training import Step

if TYPE_CHECKING:
    from pruner.methods.gator import GatorConfig

__all__ = ["Dual"]

_LEAST, _MOST = 1e-4, 1e4


class Dual:
    """One budget of a run: its price, ``budget`` as a share of the full cost, and the present ``weight`` (lambda).

    ``ratio`` is the expected relative cost at the last ``look``.
    """

    def __init__(self, price: Price, cost: Cost, budget: float, config: GatorConfig) -> None:
        self.price, self.cost, self.budget, self._config = price, cost, budget, config
        self.weight, self.ratio = 1.0, 1.0

    def target(self, step: float, steps: int) -> float:
        """The cost that is aimed at: falls geometrically from 1 to the budget; 0 with fixed stages."""
        if self._config.stages:
            return 0.0
        reached = min(1.0, (step + 1) / (self._config.reach * steps))
        return self.budget**reached

    def look(self, keep: dict[str, Tensor], sharpness: float) -> dict[str, float]:
        """Return the prices of the present state, and remember its cost."""
        self.ratio, prices = self.price(keep, sharpness)
        return prices

    def ascend(self, step: Step, future: Mapping[str, Tensor], ahead: float) -> None:
        """Move lambda by how far the ``future``, ``ahead`` steps on, is from its target then."""
        stages = self._config.stages
        if stages:
            self.weight = stages[int(step.progress * len(stages))]
            return
        error = math.log(max(self.price.value(future), 1e-6) / self.target(step.step + ahead, step.steps))
        # A run of few steps takes huge ones: beyond the bounds they are all alike.
        growth = math.exp(min(100.0, self._config.dual_rate / step.steps * error))
        self.weight = min(_MOST, max(_LEAST, self.weight * growth))
