"""The third stage: the cut network gets its accuracy back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruner.training import fit, recalibrate
from pruner.training.device import on
from pruner.training.reset import reset
from pruner.training.state import load_tensors, save_tensors

if TYPE_CHECKING:
    from torch import nn

    from pruner.data import Splits
    from pruner.request import PruneRequest
    from pruner.stages.base import Stages

__all__ = ["recover"]

_NORMS = "norms.safetensors"


def recover(
    request: PruneRequest,
    lr: float,
    small: nn.Module,
    original: nn.Module,
    splits: Splits,
    out: Path,
    stages: Stages,
) -> None:
    """Re-estimate batch-norm statistics, then fine-tune with the original network as teacher; or start from scratch."""
    scratch = request.recovery == "scratch"
    if scratch:
        reset(small, seed=request.seed)
    with on(stages.device, small, original):
        if not scratch:
            _recalibrate(request, small, splits, out, stages)
        fit(
            small,
            splits,
            epochs=request.finetune_epochs,
            lr=lr,
            batch_size=request.batch_size,
            seed=request.seed,
            teacher=None if scratch else original,
            amp=request.amp,
            clip_norm=request.clip_norm,
            ema=request.ema,
            state_dir=out / "recover",
            callbacks=stages.logs("recover"),
            progress=stages.progress,
            description="training from scratch" if scratch else "recovering accuracy",
            processes=stages.processes,
        )


def _recalibrate(request: PruneRequest, small: nn.Module, splits: Splits, out: Path, stages: Stages) -> None:
    """Re-estimate batch-norm statistics once, and keep them: another device, or a GPU again, would round otherwise.

    A resumed run must begin with the very bits that the interrupted one began with, and so must every process.
    """
    kept = out / "recover" / _NORMS
    if stages.processes.first and not kept.is_file():
        recalibrate(small, splits.train, batches=20, seed=request.seed)
        stored = small.state_dict()
        save_tensors(kept, {name: stored[name] for name, _ in small.named_buffers() if name in stored}, {})
    stages.processes.wait()
    small.load_state_dict(load_tensors(kept)[0], strict=False)
