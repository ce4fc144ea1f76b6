"""The weights that produce each channel of a group: what the data-free criteria look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from pruner.graph import ChannelGraph, Group

__all__ = ["filters_of", "relative"]


def filters_of(model: nn.Module, graph: ChannelGraph, group: Group) -> list[Tensor]:
    """Return one (channels of the group, weights of a channel) float64 matrix per layer that writes ``group``.

    Coupled channels have a row in each of several matrices. Biases, norms and the readers of the group are left
    out: they say little about what a channel carries. A group that no convolution or linear layer writes gives
    an empty list.
    """
    kinds = {site.name: site.kind for site in graph.sites}
    parameters = dict(model.named_parameters())
    matrices = []
    for member in group.members:
        layer, _, leaf = member.parameter.rpartition(".")
        weight = parameters.get(member.parameter)
        if leaf != "weight" or layer not in kinds or weight is None:
            continue
        # A transposed convolution stores (in, out, …), every other layer (out, in, …).
        outputs = 1 if kinds[layer] == "transposed" else 0
        if member.axis != outputs:
            continue
        rows = weight.detach().movedim(outputs, 0).flatten(1).double()
        matrices.append(rows[torch.tensor(member.indices, device=rows.device)].flatten(1).cpu())
    return matrices


def relative(worth: Tensor) -> np.ndarray:
    """Return ``worth`` over its mean; all ones where there is nothing to tell channels apart."""
    mean = float(worth.mean())
    return np.asarray((worth / mean).numpy()) if mean > 0 else np.ones(len(worth))
