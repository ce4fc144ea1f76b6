"""What cutting a group to each candidate count does to the loss: measured, one group at a time.

A method ranks the channels *within* a group well; how groups compare with each other it knows less surely,
and removed blocks least of all. The loss on a few training images settles it: every candidate count of every
group is masked in turn while the other groups stay as the method left them. Batch norms use the statistics of
the batch, which is what recalibration will give the cut network. The sum over groups that the allocator takes
is an approximation, as in Molchanov et al. 2019 (arXiv 1906.10771), whose importances are added likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruner.gates import Gates
from pruner.graph import ChannelGraph
from pruner.methods.base import Values
from pruner.training.evaluate import device_of
from pruner.training.memory import kept_memory

if TYPE_CHECKING:
    from rich.progress import Progress

    from pruner.data import Split

__all__ = ["images_for", "measure_losses", "sample"]


def images_for(macs_per_image: float) -> int:
    """Return how many images to judge on: 1,024 for a CIFAR network, at least 64 for a large one."""
    return int(min(1024, max(64, 2 ** round(np.log2(1024 * 100e6 / max(macs_per_image, 1.0))))))


def sample(split: Split, images: int, *, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return ``images`` images of ``split`` in batches of at most 256, chosen by ``seed``."""
    batch = min(256, images)
    drawn = split.batches(batch, shuffle=True, augment=False, seed=seed, epoch=0, limit=-(-images // batch))
    return list(drawn)


def measure_losses(
    model: nn.Module,
    graph: ChannelGraph,
    values: Values,
    candidates: Mapping[str, Sequence[int]],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    progress: Progress | None = None,
) -> dict[str, dict[int, float]]:
    """Return per group and candidate count the rise of the cross entropy, never falling with the count.

    ``candidates`` may hold 0 for the groups of a removable block: the whole block is then closed, and the rise
    is shared by its groups. All is computed where the model is, which is left as it was.
    """
    device = device_of(model)
    batches = [(images.to(device), labels.to(device)) for images, labels in batches]
    gates = Gates(graph, device=device).eval()
    order = {
        name: torch.as_tensor(np.argsort(-values.channels[name], kind="stable"), device=device)
        for name in graph.groups
    }
    start = {name: values.open_counts.get(name, group.size) for name, group in graph.groups.items()}
    together = {group: block.groups for block in graph.blocks for group in block.groups}

    def loss(changed: Mapping[str, int]) -> float:
        for name, count in {**start, **changed}.items():
            mask = gates.mask_of(name)
            mask.zero_()
            mask[order[name][:count]] = 1
        total = sum(float(F.cross_entropy(model(x).float(), y, reduction="sum")) for x, y in batches)
        return total / sum(len(y) for _, y in batches)

    todo = [(name, count) for name, counts in candidates.items() if len(counts) > 1 for count in counts]
    task = progress.add_task("weighing groups", total=len(todo), note="") if progress else None
    found: dict[str, dict[int, float]] = {}
    closed: dict[tuple[str, ...], float] = {}
    with kept_memory(), _batch_statistics(model), torch.inference_mode():
        gates.attach(model)
        try:
            for name, count in todo:
                if count:
                    rise = loss({name: count})
                else:
                    groups = together[name]
                    if groups not in closed:
                        closed[groups] = loss(dict.fromkeys(groups, 0))
                    rise = closed[groups]
                found.setdefault(name, {})[count] = rise
                if progress is not None and task is not None:
                    progress.advance(task)
        finally:
            gates.detach()
    return {name: _rises(losses, together.get(name, ())) for name, losses in found.items()}


def _rises(losses: Mapping[int, float], block: Sequence[str]) -> dict[int, float]:
    """Return rises above the best count: more channels are never worse, they could be the fewer ones."""
    counts = sorted(losses)
    best = np.minimum.accumulate([losses[count] for count in counts])
    rises = {count: float(loss - best[-1]) for count, loss in zip(counts, best, strict=True)}
    if 0 in rises and len(block) > 1:
        rises[0] /= len(block)
    return rises


@contextmanager
def _batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluate with the batch norms on the batch's own statistics, their running ones untouched."""
    was = {module: module.training for module in model.modules()}
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    held = [(module.running_mean, module.running_var) for module in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, (mean, variance) in zip(norms, held, strict=True):
            norm.running_mean, norm.running_var = mean, variance
        for module, training in was.items():
            module.training = training
