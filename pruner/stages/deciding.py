"""The second stage: groups are weighed, channels allocated, and the network timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.decide import ATTEMPTS, decide
from pruner.methods import Values
from pruner.plan import Plan
from pruner.proof import Proof
from pruner.rundir import record, recorded
from pruner.stages.weighing import weighed
from pruner.training.device import on
from pruner.values_file import VALUES, method_of

if TYPE_CHECKING:
    from torch import nn

    from pruner.data import Splits
    from pruner.request import PruneRequest
    from pruner.setting import Setting
    from pruner.stages.base import Stages

__all__ = ["PLAN", "decided"]

PLAN = "plan.json"


def decided(
    request: PruneRequest,
    setting: Setting,
    values: Values,
    measure: Callable[[nn.Module], Proof],
    splits: Splits,
    out: Path,
    stages: Stages,
) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan and its notes; decided once and kept, so that a resumed run cuts the same network."""
    kept, progress = out / PLAN, stages.progress
    if not kept.is_file():
        with on(stages.device, setting.module):
            losses = weighed(request, setting, values, splits, stages)
        task = progress.add_task("allocating and timing", total=ATTEMPTS, note="")

        def timed(small: nn.Module) -> Proof:
            progress.advance(task)
            return measure(small)

        decision = decide(
            setting,
            values.channels,
            timed,
            losses=losses,
            shares=values.shares,
            method=method_of(out / VALUES),
            seed=request.seed,
        )
        progress.update(task, completed=ATTEMPTS)
        record(out, notes=[*_origin(request), *decision.notes])
        decision.plan.save(kept)
    return Plan.load(kept), tuple(recorded(out)["notes"])


def _origin(request: PruneRequest) -> tuple[str, ...]:
    if request.transfer_from is None:
        return ()
    return (
        f"what channels are worth was taken over from the run {request.transfer_from}; nothing was learned",
    )
