"""The problem that a run poses to its method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruner.methods import Problem

if TYPE_CHECKING:
    from torch import nn

    from pruner.data import Splits
    from pruner.request import PruneRequest
    from pruner.setting import Setting
    from pruner.stages.base import Stages

__all__ = ["posed"]


def posed(
    request: PruneRequest,
    setting: Setting,
    original: nn.Module,
    splits: Splits,
    state_dir: Path,
    stages: Stages,
    **more: Any,
) -> Problem:
    """Return the problem of ``setting`` as ``request`` poses it; ``more`` are fields that one stage alone offers."""
    return Problem(
        model=setting.module,
        graph=setting.graph,
        cost=setting.cost,
        budget=setting.budget,
        ratio=setting.ratio,
        splits=splits,
        epochs=request.epochs,
        seed=request.seed,
        state_dir=state_dir,
        batch_size=request.batch_size,
        learning_rate=request.lr,
        teacher=original,
        amp=request.amp,
        clip_norm=request.clip_norm,
        progress=stages.progress,
        processes=stages.processes,
        callbacks=stages.logs(state_dir.name),
        others=tuple((other, limit / other.full) for other, limit in setting.other_limits),
        **more,
    )
