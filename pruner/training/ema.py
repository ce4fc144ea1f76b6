"""Exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["Ema"]


class Ema:
    """A second copy of all floating-point parameters and buffers that follows the model slowly.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging" (1992), with exponential
    weights. The decay is warmed up as ``min(decay, (1 + n) / (10 + n))`` so that the start is forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = {name: t for name, t in _tensors(model).items() if t.is_floating_point()}
        self.shadow = {name: t.detach().clone() for name, t in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy towards the model by one step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.shadow.values()), list(self._live.values()), 1 - decay)

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Take back a saved copy."""
        self.updates = updates
        for name, tensor in self.shadow.items():
            tensor.copy_(tensors[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Overwrite the model with the copy."""
        for name, tensor in self._live.items():
            tensor.copy_(self.shadow[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model be the copy for a while."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in self._live.items():
                    tensor.copy_(kept[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
