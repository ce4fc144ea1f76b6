"""Allocation under a budget at a confidence: the upper end of the prediction's interval is what must fit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latency_model.errors import BudgetError
from pruner.allocate import Allocation, Losses, allocate, choices
from pruner.setting import Setting
from pruner.shares import allocate_shares

__all__ = ["allocate_within"]

# How often the margin is taken anew at the network that was found, and when it has settled.
_ROUNDS = 5
_SETTLED = 0.005
_FUZZ = 1e-9


def allocate_within(
    setting: Setting,
    limit: float,
    values: Mapping[str, np.ndarray],
    *,
    losses: Losses | None = None,
    shares: Mapping[str, float] | None = None,
) -> Allocation:
    """Return the best allocation whose cost, with the margin at the budget's confidence, is within ``limit``.

    With ``shares`` it is ``allocate_shares`` that allocates.

    The margin belongs to a network, so it is taken at the full network first and then at the one that was found,
    until a found network fits with its own margin and none is left to be used. A budget without a confidence has no
    margin: then this is ``allocate``. Raises ``BudgetError`` when nothing fits.
    """

    def found_with(margin: float) -> Allocation:
        bounds = [(setting.cost, limit / (1 + margin)), *setting.other_limits]
        if shares is not None:
            counts = choices([cost for cost, _ in bounds], setting.blocks, floors=setting.floors)
            return allocate_shares(bounds, values, shares, counts)
        return allocate(
            bounds, values, setting.blocks, floors=setting.floors, losses=losses, stairs=setting.stairs
        )

    sure = setting.budget.confidence
    if sure is None:
        return found_with(0.0)
    margin, best = setting.margin({}), None
    for _ in range(_ROUNDS):
        try:
            found = found_with(margin)
        except BudgetError as error:
            if best is None:
                raise BudgetError(
                    f"{error}; at {sure:.6g} confidence a prediction must stay {margin:.1%} below the budget"
                ) from error
            break
        own = setting.margin(found.counts)
        fits = found.costs[0] * (1 + own) <= limit * (1 + _FUZZ)
        if fits and (best is None or found.costs[0] > best.costs[0]):
            best = found
        if fits and own >= margin - _SETTLED:
            break
        margin = own
    if best is None:
        raise BudgetError(
            f"no network was found whose latency stays within the budget {setting.budget} by the model's interval; "
            "raise the budget or lower the confidence"
        )
    return best
