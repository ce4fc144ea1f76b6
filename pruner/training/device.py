"""Where training runs: a GPU if there is one, else the CPU. What is *timed* is a matter of the table alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from latency_model.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["choose", "described", "on", "require_run"]

_CUDA = re.compile(r"cuda(?::(\d+))?")


def choose(text: str) -> torch.device:
    """Return the device to train on: ``auto`` (a GPU if torch sees one, else the CPU), ``cpu``, ``cuda`` or ``cuda:1``.

    Raises ``InputError`` for another text, and for a GPU that torch does not see.
    """
    if text == "cpu":
        return torch.device("cpu")
    number = _CUDA.fullmatch(text)
    if text != "auto" and number is None:
        raise InputError(
            f"cannot train on the device {text!r}; give auto, cpu, cuda or, for the second GPU, cuda:1"
        )
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if number is None:
        return torch.device("cuda" if seen else "cpu")
    if int(number[1] or 0) >= seen:
        has = f"{seen} GPU{'s' * (seen > 1)}" if seen else "no GPU"
        raise InputError(
            f"cannot train on the device {text!r}: torch sees {has} here; give --device auto or cpu"
        )
    return torch.device(text)


def described(device: torch.device) -> str:
    """Return ``device`` for a report: cpu, or the model of the GPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@contextmanager
def on(device: torch.device, *models: nn.Module) -> Iterator[None]:
    """Have ``models`` on ``device`` for a while; afterwards they are on the CPU, however it ends.

    Surgery, its check, export and files work on the CPU alone, whose sums do not depend on where training ran.
    """
    try:
        for model in models:
            model.to(device)
        yield
    finally:
        for model in models:
            model.to("cpu")


def require_run(model: nn.Module, input_shape: Sequence[int], device: torch.device, *, name: str) -> None:
    """Raise ``InputError`` when ``model``, which runs on the CPU, does not run on ``device``.

    A tensor that is neither parameter nor buffer stays on the CPU, for one; a GPU can be too old for torch, or full.
    """
    if device.type == "cpu":
        return
    modes = [(part, part.training) for part in model.modules()]
    try:
        with on(device, model), torch.inference_mode():
            model.eval()(torch.zeros(1, *input_shape, device=device))
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} cannot run on the device {device} ({reason}); give --device cpu") from error
    finally:
        for part, training in modes:
            part.training = training
