"""The decision: allocate under the budget, cut, time, and correct until the clock agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from latency_model.errors import BudgetError, GharialError
from pruner.allocate import Allocation, Losses
from pruner.confidence import allocate_within
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
    shares: Mapping[str, float] | None = None,
) -> Decision:
    """Return the plan whose *measured* cost comes nearest to the budget without passing it by more than 1 %.

    ``measure(small)`` times the original and the small network side by side. For a latency budget the
    allocation is repeated, at most ``ATTEMPTS`` times in all, with the bound divided by measured over
    predicted; other metrics are exact and need one. With a confidence the prediction leaves the margin of the
    model's interval free, and a measurement below the budget is what was asked for: only one above it is corrected.
    """
    cost, limit = setting.cost, setting.limit
    correction = 1.0
    tried: dict[tuple[tuple[str, int], ...], Decision] = {}
    for _ in range(ATTEMPTS):
        try:
            found = allocate_within(setting, limit / correction, values, losses=losses, shares=shares)
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
        if _agrees(setting, proof):
            break
        aim = setting.budget.ratio(proof.before.latency_us)
        correction = (proof.ratio / aim) / (found.costs[0] / limit)
    best = min(tried.values(), key=lambda decision: _miss(setting, decision))
    return Decision(best.plan, best.allocation, best.proof, _notes(setting, best, len(tried)))


def _excess(setting: Setting, proof: Proof) -> float:
    """How far the measured ratio lies above the budget, relative."""
    return proof.ratio / setting.budget.ratio(proof.before.latency_us) - 1


def _agrees(setting: Setting, proof: Proof) -> bool:
    """Whether the clock confirms the budget: it comes near, or at a confidence, does not exceed it."""
    excess = _excess(setting, proof)
    return abs(excess) <= TOLERANCE if setting.budget.confidence is None else excess <= 0


def _miss(setting: Setting, decision: Decision) -> float:
    """How far the measured ratio is from the budget; over it counts three times, at a confidence above all."""
    if setting.budget.metric != "latency":
        return 0.0
    excess = _excess(setting, decision.proof)
    if excess > 0:
        return 3 * excess if setting.budget.confidence is None else 1 + excess
    return -excess


def _notes(setting: Setting, decision: Decision, attempts: int) -> tuple[str, ...]:
    notes = []
    if attempts > 1:
        notes.append(
            f"the allocation was repeated with the measured correction: {attempts} networks were timed"
        )
    if setting.budget.metric == "latency":
        aim = setting.budget.ratio(decision.proof.before.latency_us)
        if not _agrees(setting, decision.proof):
            by = f"by more than {TOLERANCE:.0%} " if setting.budget.confidence is None else ""
            notes.append(
                f"the measured ratio {decision.proof.ratio:.3f} misses the budget {aim:.3f} {by}"
                f"after {attempts} allocations"
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
    metric, cost = setting.cost.metric, found.costs[0]
    predicted = {metric: cost, f"{metric}_before": setting.before(setting.budget)}
    for budget, value in zip(setting.others, found.costs[1:], strict=True):
        predicted |= {budget.metric: value, f"{budget.metric}_before": setting.before(budget)}
    if setting.budget.confidence is not None:
        predicted[f"{metric}_bound"] = cost * (1 + setting.margin(found.counts))
        predicted["confidence"] = setting.budget.confidence
    return Plan(
        fingerprint=setting.graph.fingerprint,
        removed=removed,
        blocks=found.blocks,
        budget=setting.budgets,
        method=method,
        seed=seed,
        predicted=predicted,
        model=setting.loaded.name,
        precision=setting.precision,
        edits=setting.edits,
    )
