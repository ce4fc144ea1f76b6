"""First-order Taylor importance: how much the loss would change if a channel's gate were closed.

Pavlo Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019 (arXiv 1906.10771),
equation 8 at gates: with a gate z = 1 on a channel, the squared first-order change of the loss on removal is
(dE/dz)^2, averaged over batches. One gate vector per group of coupled channels multiplies what all its readers
read, so that the gradient is of removing the channel as a whole.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from latency_model.errors import DataError
from pruner.gates import Gates
from pruner.methods.base import Problem, Values
from pruner.training.evaluate import device_of, kept_modes, place

__all__ = ["Taylor"]

# Batches that the squares are averaged over.
BATCHES = 30


class Taylor:
    """First-order criterion on training images: squared gradient of the loss by each channel's gate."""

    name = "taylor"
    paper = "Molchanov et al., CVPR 2019, arXiv 1906.10771"
    needs_data = True
    trains = False

    def values(self, problem: Problem) -> Values:
        """Return the mean over up to ``BATCHES`` batches of (dE/dz)^2, in evaluation mode, without augmentation.

        The model is left as it was. Raises ``DataError`` without data, or when a gradient is not finite.
        """
        if problem.splits is None:
            raise DataError("the method taylor needs images; give a data set with --data DIR")
        model, device = problem.model, device_of(problem.model)
        gates = Gates(problem.graph, device=device).eval()
        masks = {name: gates.mask_of(name).requires_grad_() for name in problem.graph.groups}
        total = {name: torch.zeros_like(mask, dtype=torch.float64) for name, mask in masks.items()}
        batches = problem.splits.train.batches(
            problem.batch_size, shuffle=True, augment=False, seed=problem.seed, epoch=0, limit=BATCHES
        )
        count = 0
        gates.attach(model)
        try:
            with kept_modes(model):
                model.eval()
                for images, labels in batches:
                    logits = model(place(images, device, channels_last=False)).float()
                    loss = F.cross_entropy(logits, labels.to(device))
                    gradients = torch.autograd.grad(loss, list(masks.values()), allow_unused=True)
                    for name, gradient in zip(masks, gradients, strict=True):
                        if gradient is not None:  # a group that nobody reads has none
                            total[name] += gradient.double().square()
                    count += 1
        finally:
            gates.detach()
        channels = {name: np.asarray((total[name] / max(count, 1)).cpu().numpy()) for name in masks}
        if not all(np.isfinite(worth).all() for worth in channels.values()):
            raise DataError(
                "the loss on the training images is not finite, so taylor cannot rank channels; "
                "give weights that were trained on this data"
            )
        return Values(channels)
