"""The third stage: the cut network gets its accuracy back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pruner.compensation import compensate
from pruner.graph import ChannelGraph
from pruner.sensitivity import sample
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

_NORMS, _WEIGHTS = "norms.safetensors", "compensated.safetensors"
# Images that layers are solved on.
COMPENSATED_ON = 1024
# A channel graph and what stays of each group.
Kept = tuple[ChannelGraph, Mapping[str, Sequence[int]]]


def recover(
    request: PruneRequest,
    lr: float,
    small: nn.Module,
    original: nn.Module,
    kept: Kept,
    splits: Splits,
    out: Path,
    stages: Stages,
) -> None:
    """Fine-tune with the original network as teacher, after its layers' outputs or its norms; or start from scratch."""
    scratch = request.recovery == "scratch"
    if scratch:
        reset(small, seed=request.seed)
    with on(stages.device, small, original):
        if not scratch:
            _begin(request, small, original, kept, splits, out, stages)
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


def _begin(
    request: PruneRequest,
    small: nn.Module,
    original: nn.Module,
    kept: Kept,
    splits: Splits,
    out: Path,
    stages: Stages,
) -> None:
    """Compensate, or estimate batch-norm statistics anew, once, and keep what came of it: a GPU would round otherwise.

    A resumed run must begin with the very bits that the interrupted one began with, and so must every process.
    """
    path = out / "recover" / (_WEIGHTS if request.compensate else _NORMS)
    if stages.processes.first and not path.is_file():
        if request.compensate:
            graph, keep = kept
            images = sample(splits.train, COMPENSATED_ON, seed=request.seed)
            compensate(small, original, graph, keep, images, progress=stages.progress)
            save_tensors(path, small.state_dict(), {})
        else:
            recalibrate(small, splits.train, batches=20, seed=request.seed)
            stored = small.state_dict()
            save_tensors(
                path, {name: stored[name] for name, _ in small.named_buffers() if name in stored}, {}
            )
    stages.processes.wait()
    small.load_state_dict(load_tensors(path)[0], strict=False)
