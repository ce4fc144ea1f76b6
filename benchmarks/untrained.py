"""Networks without training: what the channels are worth without data, and norms that are not all zeros and ones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from pruner.methods import Method, Problem, Values
from pruner.setting import Setting

__all__ = ["biased", "values_of"]


def values_of(method: Method, setting: Setting) -> Values:
    """Return what a method without data says of the channels."""
    return method.values(
        Problem(
            model=setting.module,
            graph=setting.graph,
            cost=setting.cost,
            budget=setting.budget,
            ratio=setting.ratio,
            splits=None,
            epochs=0,
            seed=0,
            state_dir=Path(),
        )
    )


def biased(module: nn.Module) -> nn.Module:
    """Give norms random values: the exporter drops a bias that is all zeros, and the row would have one."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        for name in ("running_mean", "bias"):
            tensor = getattr(part, name, None)
            if isinstance(tensor, torch.Tensor):
                tensor.data.normal_(generator=generator)
    return module.eval()
