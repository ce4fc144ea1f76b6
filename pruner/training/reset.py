"""A network as if it had never been trained, for training its architecture from scratch."""

from __future__ import annotations

import torch
from torch import nn

from latency_model.errors import InputError

__all__ = ["reset"]


def reset(model: nn.Module, *, seed: int) -> None:
    """Draw all weights of ``model`` anew, in place, as its layers do when they are made; torch's state is as before.

    Raises ``InputError`` for a model with parameters of its own that no layer knows how to begin with.
    """
    owners = [
        (name, module) for name, module in model.named_modules() if list(module.parameters(recurse=False))
    ]
    for name, module in owners:
        if not callable(getattr(module, "reset_parameters", None)):
            raise InputError(
                f"{name or 'the model'} is a {type(module).__name__}, which cannot draw its parameters anew (it has no "
                "reset_parameters); recover by fine-tuning"
            )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _, module in owners:
            module.reset_parameters()  # type: ignore[operator]
