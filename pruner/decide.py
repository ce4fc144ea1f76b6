"""The decision: allocate under the budget, cut, time, and correct until the clock agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from latency_model.errors import BudgetError, GharialError
from pruner.allocate import Allocation, Losses, allocate
from pruner.oracle import check
from pruner.plan import Plan
from pruner.proof import Proof
from pruner.setting import Setting, kept_channels
from pruner.surgery import remove

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ATTEMPTS", "TOLERANCE", "Decision", "cut", "decide"]

# The measured latency may miss the budget by this share before the allocator is asked again.
TOLERANCE = 0.02
ATTEMPTS = 4


@dataclass(frozen=True)
class Decision:
    """A plan with the allocation behind it, its proof, and what a reader must know."""

    plan: Plan
    allocation: Allocation
    proof: Proof
    notes: tuple[str, ...]


def cut(setting: Setting, plan: Plan) -> nn.Module:
    """Return the small network; raises ``GharialError`` when it does not compute what the masked one does."""
    keep = plan.keep(setting.graph)
    inputs = torch.randn(2, *setting.input_shape, generator=torch.Generator().manual_seed(plan.seed))
    result = check(setting.module, setting.graph, keep, plan.blocks, inputs=inputs)
    if not result.ok:
        raise GharialError(
            f"the cut network differs from the masked one by {result.max_relative_error:.2e} relative; nothing was "
            "saved: please report this model"
        )
    return remove(setting.module, setting.graph, keep, blocks=plan.blocks)


def decide(
    setting: Setting,
    values: Mapping[str, np.ndarray],
    measure: Callable[[nn.Module], Proof],
    *,
    method: str,
    seed: int,
    losses: Losses | None = None,
) -> Decision:
    """Return the plan whose *measured* cost comes nearest to the budget without passing it by more than 1 %.

    ``measure(small)`` times the original and the small network side by side. For a latency budget the
    allocation is repeated, at most ``ATTEMPTS`` times in all, with the bound divided by measured over
    predicted; other metrics are exact and need one.
    """
    cost = setting.cost
    limit = setting.budget.target(cost.full)
    correction = 1.0
    tried: dict[tuple[tuple[str, int], ...], Decision] = {}
    for _ in range(ATTEMPTS):
        try:
            found = allocate(
                [(cost, limit / correction)], values, setting.blocks, floors=setting.floors, losses=losses
            )
        except BudgetError:
            if not tried:
                raise
            break
        key = tuple(sorted(found.counts.items()))
        if key in tried:
            break
        plan = _plan(setting, found, values, method=method, seed=seed)
        proof = measure(cut(setting, plan))
        tried[key] = Decision(plan, found, proof, ())
        if cost.metric != "latency":
            break
        aim = setting.budget.ratio(proof.before.latency_us)
        if abs(proof.ratio / aim - 1) <= TOLERANCE:
            break
        predicted = found.costs[0] / cost.full
        correction = (proof.ratio / aim) / (predicted / setting.budget.ratio(cost.full))
    best = min(tried.values(), key=lambda decision: _miss(setting, decision))
    return Decision(best.plan, best.allocation, best.proof, _notes(setting, best, len(tried)))


def _miss(setting: Setting, decision: Decision) -> float:
    """How far the measured ratio is from the budget; being over it counts three times."""
    if setting.budget.metric != "latency":
        return 0.0
    excess = decision.proof.ratio / setting.budget.ratio(decision.proof.before.latency_us) - 1
    return 3 * excess if excess > 0 else -excess


def _notes(setting: Setting, decision: Decision, attempts: int) -> tuple[str, ...]:
    notes = []
    if attempts > 1:
        notes.append(
            f"the allocation was repeated with the measured correction: {attempts} networks were timed"
        )
    if setting.budget.metric == "latency":
        aim = setting.budget.ratio(decision.proof.before.latency_us)
        if abs(decision.proof.ratio / aim - 1) > TOLERANCE:
            notes.append(
                f"the measured ratio {decision.proof.ratio:.3f} misses the budget {aim:.3f} by more than "
                f"{TOLERANCE:.0%} after {attempts} allocations"
            )
    return tuple(notes)


def _plan(
    setting: Setting, found: Allocation, values: Mapping[str, np.ndarray], *, method: str, seed: int
) -> Plan:
    kept = kept_channels(setting, values, found.counts)
    removed = {}
    for name, group in setting.graph.groups.items():
        lost = set(range(group.size)) - set(kept[name])
        if lost:
            removed[name] = tuple(sorted(lost))
    return Plan(
        fingerprint=setting.graph.fingerprint,
        removed=removed,
        blocks=found.blocks,
        budget=setting.budget.text,
        method=method,
        seed=seed,
        predicted={setting.cost.metric: found.costs[0], f"{setting.cost.metric}_before": setting.cost.full},
        model=setting.loaded.name,
    )
