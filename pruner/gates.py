"""Stochastic channel gates on the groups of a channel graph.

One logit per channel of each group; one noise sample per group, image and step, shared by every place the
group is read, so that a channel is either there for all its readers or for none (the original Gator drew
anew at each of its 105 places in ResNet-50). A gate multiplies the *inputs* of the convolutions and linear
layers that read the channel: that is what removing the channel later does, whatever lies between.
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class _Gated:
    """What a reader got for ``source``, for the next reader of the same tensor."""

    source: weakref.ref[Tensor]
    version: int
    result: Tensor

    def is_of(self, x: Tensor) -> bool:
        """Whether ``x`` is that very tensor, and nobody has written to it since."""
        return self.source() is x and x._version == self.version


class Gates(nn.Module):
    """Learned keep probabilities for every group of ``graph``, attached to ``model`` by ``attach``.

    In training mode each image of a batch draws its own gates; in evaluation mode a channel is open when
    its mask is 1: deterministic. Masks are permanent: the method closes
    channels and nothing opens them again. ``last[group]`` holds the latest samples, shape (B, C).
    ``noise`` scales the noise: 1 is the method's, towards 0 a gate is open when its logit is above 0. Noise
    is drawn on ``device``, where the gated model must be too, from torch's global generator of it.
    """

    last: dict[str, Tensor]

    def __init__(
        self, graph: ChannelGraph, *, initial_keep: float = 0.995, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.groups = {name: group.size for name, group in graph.groups.items()}
        self._points = graph.gates
        self._blocks = [block for block in graph.blocks if block.groups]
        # Group names are module paths; a dot is not allowed in the name of a parameter.
        self._index = {name: str(number) for number, name in enumerate(self.groups)}
        start = logit(initial_keep)
        self.logits = nn.ParameterDict(
            {
                self._index[name]: nn.Parameter(torch.full((size,), start, device=device))
                for name, size in self.groups.items()
            }
        )
        for name, size in self.groups.items():
            self.register_buffer(f"mask{self._index[name]}", torch.ones(size, device=device))
        self.noise = 1.0
        # (start, stop, count): the rows of the noise of a batch of ``count`` images that are this process's.
        self.shard: tuple[int, int, int] | None = None
        self.last = {}
        # Which images keep a block, for the blocks that some image closes.
        self._alive: dict[str, Tensor] = {}
        # What has been gated in the forward pass that runs; None outside of one.
        self._gated: dict[int, _Gated] | None = None
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

    def _draw(self, batch: int) -> None:
        self.last = {}
        for name in self.groups:
            logits, mask = self.logit_of(name), self.mask_of(name)
            if self.training:
                start, stop, count = self.shard or (0, batch, batch)
                uniform = torch.rand(count, logits.numel(), device=logits.device)[start:stop]
                noise = self.noise * torch.logit(uniform, eps=1e-7)
                self.last[name] = _straight_through(logits, noise, mask)
            else:
                self.last[name] = mask.expand(batch, -1)
        self._alive = self._look_for_closed() if self._blocks else {}

    def _look_for_closed(self) -> dict[str, Tensor]:
        """Return which images (B,) keep a block, for the blocks that some image closes.

        A block is closed where one of its groups has no open channel. All are looked at together: on a GPU the host
        waits once for each forward pass, not once for each block.
        """
        some = {
            group: self.last[group].detach().sum(1) > 0 for block in self._blocks for group in block.groups
        }
        alive = torch.stack(
            [torch.stack([some[group] for group in block.groups]).all(0) for block in self._blocks]
        )
        whole = alive.all(1).tolist()
        return {
            block.name: row for block, row, all_ in zip(self._blocks, alive, whole, strict=True) if not all_
        }

    def attach(self, model: nn.Module) -> None:
        """Gate ``model`` in place with hooks; ``detach`` takes them off again."""
        modules = dict(model.named_modules())

        def begin(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._draw(args[0].shape[0])
            self._gated = {}

        def end(*_: object) -> None:
            self._gated = None

        self._handles.append(model.register_forward_pre_hook(begin))
        self._handles.append(model.register_forward_hook(end, always_call=True))
        readers = [(point.group, point.channels) for point in self._points]
        for point, reader in zip(self._points, readers, strict=True):
            # Two readers of one tensor, like the first convolution of a block and its shortcut, share its gating.
            place = readers.index(reader) if readers.count(reader) > 1 else None
            hook = self._multiplier(point.group, point.channels, place)
            self._handles.append(modules[point.module].register_forward_pre_hook(hook))
        for block in self._blocks:
            self._handles.append(modules[block.tail].register_forward_hook(self._closer(block.name)))

    def _closer(self, block: str):  # type: ignore[no-untyped-def]
        """Return a hook that silences a branch for images in which one of its groups is fully closed.

        Without it the branch would still add the shift of its last norm, which goes when the block goes.
        """

        def close(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            alive = self._alive.get(block)
            if alive is None:
                return None
            return output * alive.to(output.dtype).view(-1, *[1] * (output.dim() - 1))

        return close

    def _multiplier(self, group: str, channels: tuple[int, ...], place: int | None):  # type: ignore[no-untyped-def]
        """Return a hook that gates a reader's input; readers with the same ``place`` share the result."""
        plain = channels == tuple(range(self.groups[group]))
        positions = None if plain else torch.tensor(channels, device=self.mask_of(group).device)

        def gate_of(x: Tensor) -> Tensor:
            gate = self.last[group]
            if positions is not None:
                spread = gate[:, positions.clamp(min=0)]
                gate = torch.where(positions < 0, torch.ones_like(spread), spread)
            axis = 1 if x.dim() != 3 else 2
            shape = [x.shape[0]] + [1] * (x.dim() - 1)
            shape[axis] = gate.shape[1]
            return gate.to(x.dtype).view(shape)

        def multiply(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            x = args[0]
            # Inference tensors do not count how often they are written to.
            seen = self._gated if place is not None and not x.is_inference() else None
            if seen is None or place is None:
                return (x * gate_of(x), *args[1:])
            earlier = seen.get(place)
            if earlier is None or not earlier.is_of(x):
                earlier = seen[place] = _Gated(weakref.ref(x), x._version, x * gate_of(x))
            return (earlier.result, *args[1:])

        return multiply

    def detach(self) -> None:
        """Take every hook off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
