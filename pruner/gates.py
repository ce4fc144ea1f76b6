"""Stochastic channel gates on the groups of a channel graph.

One logit per channel of each group; one noise sample per group, image and step, shared by every place the
group is read, so that a channel is either there for all its readers or for none (the original Gator drew
anew at each of its 105 places in ResNet-50). A gate multiplies the *inputs* of the convolutions and linear
layers that read the channel: that is what removing the channel later does, whatever lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pruner.graph import ChannelGraph

__all__ = ["Gates", "logit"]


_LEAST_NOISE = 0.02  # below it a keep probability is 0 or 1 anyway


def logit(probability: float) -> float:
    """Return the logistic quantile: the logit whose gate is open with ``probability``."""
    return math.log(probability / (1 - probability))


def _straight_through(logits: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Return hard samples (B, C) whose gradient is that of the sigmoid they were cut from.

    Binary concrete relaxation at temperature 1 (Maddison et al. 2017, Jang et al. 2017), hard in the
    forward pass: P(open) = sigmoid(logit) exactly.
    """
    score = logits + noise
    soft = torch.sigmoid(score)
    hard = (score > 0).to(soft.dtype)
    return (hard + (soft - soft.detach())) * mask


class Gates(nn.Module):
    """Learned keep probabilities for every group of ``graph``, attached to ``model`` by ``attach``.

    In training mode each image of a batch draws its own gates; in evaluation mode a channel is open when
    its mask is 1: deterministic. Masks are permanent: the method closes
    channels and nothing opens them again. ``last[group]`` holds the latest samples, shape (B, C).
    ``noise`` scales the noise: 1 is the method's, towards 0 a gate is open when its logit is above 0. Noise
    comes from torch's global generator.
    """

    last: dict[str, Tensor]

    def __init__(self, graph: ChannelGraph, *, initial_keep: float = 0.995) -> None:
        super().__init__()
        self.groups = {name: group.size for name, group in graph.groups.items()}
        self._points = graph.gates
        self._blocks = [block for block in graph.blocks if block.groups]
        # Group names are module paths; a dot is not allowed in the name of a parameter.
        self._index = {name: str(number) for number, name in enumerate(self.groups)}
        start = logit(initial_keep)
        self.logits = nn.ParameterDict(
            {
                self._index[name]: nn.Parameter(torch.full((size,), start))
                for name, size in self.groups.items()
            }
        )
        for name, size in self.groups.items():
            self.register_buffer(f"mask{self._index[name]}", torch.ones(size))
        self.noise = 1.0
        # (start, stop, count): the rows of the noise of a batch of ``count`` images that are this process's.
        self.shard: tuple[int, int, int] | None = None
        self.last = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def logit_of(self, group: str) -> nn.Parameter:
        """Return the logits of ``group``, shape (C,)."""
        return self.logits[self._index[group]]

    def mask_of(self, group: str) -> Tensor:
        """Return the permanent mask of ``group``, shape (C,), 1 for open."""
        return self.get_buffer(f"mask{self._index[group]}")

    def keep(self) -> dict[str, Tensor]:
        """Return keep probabilities per group, masked channels at 0, differentiable in the logits."""
        return {name: self.probability(self.logit_of(name)) * self.mask_of(name) for name in self.groups}

    def probability(self, logits: Tensor) -> Tensor:
        """Return the probability that a gate with these logits is open under the present noise."""
        return torch.sigmoid(logits / max(self.noise, _LEAST_NOISE))

    def _draw(self, batch: int, device: torch.device) -> None:
        self.last = {}
        for name in self.groups:
            logits, mask = self.logit_of(name), self.mask_of(name)
            if self.training:
                start, stop, count = self.shard or (0, batch, batch)
                uniform = torch.rand(count, logits.numel())[start:stop]
                noise = self.noise * torch.logit(uniform, eps=1e-7).to(device)
                self.last[name] = _straight_through(logits, noise, mask)
            else:
                self.last[name] = mask.expand(batch, -1)

    def attach(self, model: nn.Module) -> None:
        """Gate ``model`` in place with hooks; ``detach`` takes them off again."""
        modules = dict(model.named_modules())

        def draw(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._draw(args[0].shape[0], args[0].device)

        self._handles.append(model.register_forward_pre_hook(draw))
        for point in self._points:
            positions = torch.tensor(point.channels)
            plain = point.channels == tuple(range(self.groups[point.group]))
            hook = self._multiplier(point.group, None if plain else positions)
            self._handles.append(modules[point.module].register_forward_pre_hook(hook))

        for block in self._blocks:
            hook = self._closer(block.groups)
            self._handles.append(modules[block.tail].register_forward_hook(hook))

    def _closer(self, groups: Sequence[str]):  # type: ignore[no-untyped-def]
        """Return a hook that silences a branch for images in which one of its groups is fully closed.

        Without it the branch would still add the shift of its last norm, which goes when the block goes.
        """

        def close(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            alive = torch.stack([self.last[group].detach().sum(1) > 0 for group in groups]).all(0)
            if bool(alive.all()):
                return None
            return output * alive.to(output.dtype).view(-1, *[1] * (output.dim() - 1))

        return close

    def _multiplier(self, group: str, positions: Tensor | None):  # type: ignore[no-untyped-def]
        def multiply(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            gate = self.last[group]
            if positions is not None:
                spread = gate[:, positions.clamp(min=0)]
                gate = torch.where(positions.to(gate.device) < 0, torch.ones_like(spread), spread)
            axis = 1 if x.dim() != 3 else 2
            shape = [x.shape[0]] + [1] * (x.dim() - 1)
            shape[axis] = gate.shape[1]
            return (x * gate.to(x.dtype).view(shape), *args[1:])

        return multiply

    def detach(self) -> None:
        """Take every hook off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
