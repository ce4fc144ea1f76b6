"""The processes that train one network together, and what the loop asks of them; here: one process alone.

``pruner.training.fabric`` has the same for several processes under ``torchrun``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ALONE", "Processes", "first_process", "world_size"]


def world_size() -> int:
    """Return how many processes ``torchrun`` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def first_process() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return world_size() == 1 or os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class Processes:
    """One process: every operation among processes does nothing. ``world`` processes, of which this is ``rank``."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def place(self, device: torch.device | str) -> torch.device:
        """Return the device of this process where the user asked for ``device``."""
        return torch.device(device)

    def wrap(self, model: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return ``model`` in a form whose backward pass averages its gradients over the processes."""
        return model

    def synchronised(self, model: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """Let the batch norms of ``model`` take their statistics over all processes for a while."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of ``loss``."""
        torch.autograd.backward(loss)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place."""

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of ``tensor`` over the processes."""
        return tensor

    def wait(self) -> None:
        """Return when every process has come here."""


ALONE = Processes()
