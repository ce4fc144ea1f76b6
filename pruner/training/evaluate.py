"""Top-1 accuracy, and batch-norm statistics estimated anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from latency_model.errors import DataError
from pruner.data.split import Split
from pruner.training.mixed import half_type
from pruner.training.processes import ALONE, Processes

__all__ = ["device_of", "evaluate", "kept_modes", "place", "recalibrate"]


def device_of(model: nn.Module) -> torch.device:
    """Return where the model's parameters are; the CPU when it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def place(images: Tensor, device: torch.device, *, channels_last: bool) -> Tensor:
    """Return the images on ``device``, in channels-last order if asked for."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(device, non_blocking=True, memory_format=layout)


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Put every module's training flag back on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    batch_size: int = 500,
    limit: int | None = None,
    amp: bool | str = False,
    channels_last: bool = True,
    processes: Processes = ALONE,
) -> float:
    """Return the top-1 accuracy on ``split`` in percent, in evaluation mode.

    ``limit`` is a number of batches, ``amp`` as in ``fit``. Several ``processes`` share the images out, and all get
    the accuracy on all of them. The model's modes and torch's random state are as before afterwards.
    """
    device, half = device_of(model), half_type(amp)
    correct, count = torch.zeros((), dtype=torch.int64, device=device), 0
    with (
        kept_modes(model),
        torch.inference_mode(),
        torch.autocast(device.type, half, enabled=half is not None),
    ):
        model.eval()
        for images, labels in split.batches(
            batch_size,
            shuffle=False,
            augment=False,
            seed=0,
            epoch=0,
            limit=limit,
            rank=processes.rank,
            world=processes.world,
        ):
            logits = model(place(images, device, channels_last=channels_last))
            correct += (logits.argmax(1) == labels.to(device)).sum()
            count += len(labels)
    hits, images_seen = processes.total(torch.stack([correct, torch.full_like(correct, count)])).tolist()
    if not images_seen:
        raise DataError(f"the {split.name} set has no images to evaluate on; hold some out")
    return 100 * hits / images_seen


def recalibrate(
    model: nn.Module,
    split: Split,
    *,
    batches: int = 50,
    batch_size: int = 128,
    seed: int = 0,
    channels_last: bool = True,
) -> int:
    """Estimate the running statistics of every batch norm anew and return how many there are.

    The statistics become the plain average over ``batches`` shuffled, unaugmented batches, in one pass with
    everything but the batch norms in evaluation mode. Weights, momenta and modes stay as they were.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not norms:
        return 0
    if batches < 1 or not len(split):
        raise DataError(f"recalibration needs at least one batch of the {split.name} set")
    device = device_of(model)
    momenta = [norm.momentum for norm in norms]
    with kept_modes(model), torch.no_grad():
        model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for images, _ in split.batches(
                batch_size, shuffle=True, augment=False, seed=seed, epoch=0, limit=batches
            ):
                model(place(images, device, channels_last=channels_last))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    return len(norms)
