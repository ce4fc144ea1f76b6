"""Closed-form compensation: the weights that stay take over what the removed channels did, without a gradient.

Zhouyang Xie, Yan Fu, Shengzhao Tian, Junlin Zhou, Duanbing Chen, "Pruning with Compensation: Efficient Channel Pruning
for Deep Convolutional Neural Networks" (arXiv 2108.13728): a layer's weights are replaced by those that best reproduce,
in least squares over training images, what the layer gave before. Works after any method.

Changed: layers are solved one after another, each on what the *cut* network feeds it, against what the *original* gave
(the paper solves all against the original's inputs, which are no longer there); the ridge pulls towards the weights
as they are, so that where nothing was removed nothing changes; a norm behind a layer takes up the shift and scale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruner.graph import ChannelGraph
from pruner.training.evaluate import device_of, kept_modes, place

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["compensate", "solvable"]

# Rows of taps that one layer is solved on: so many, and so many more for each tap. Neighbours tell much the same.
ROWS, ROWS_PER_TAP = 20_000, 16
RIDGE = 1e-4


def solvable(module: nn.Module) -> bool:
    """Whether a layer's weights are solved for: a linear layer, or a convolution of one group, not transposed."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def compensate(
    small: nn.Module,
    original: nn.Module,
    graph: ChannelGraph,
    keep: Mapping[str, Sequence[int]],
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    ridge: float = RIDGE,
    rescale: bool = True,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Give ``small``, which is ``original`` cut to ``keep``, weights that restore its layers' outputs, in place.

    Returns for each layer that was solved the share of its outputs' variance that is still missing. Layers before the
    first cut, depthwise, grouped and transposed convolutions keep their weights. ``ridge`` is relative to the mean
    variance of a tap. With ``rescale`` a batch norm behind a layer gives what is left the variance that it had: further
    from the original in the mean square, nearer to what the next layers are used to. Both networks compute in
    evaluation mode and are left in their modes; all sums are in double precision.
    """
    device = device_of(small)
    images = [place(one, device, channels_last=False) for one, _ in batches]
    layers = dict(small.named_modules())
    norms, runs = _looked_over(original, graph, images[0][:2])
    names = [site.name for site in graph.sites if site.name in layers and solvable(layers[site.name])]
    task = progress.add_task("compensating", total=len(names), note="") if progress else None
    missing = {}
    with kept_modes(small), kept_modes(original), torch.no_grad():
        small.eval()
        original.eval()
        for name in names:
            layer = layers[name]
            kept = _kept_outputs(graph, keep, original, name)
            sums = _Sums.over(small, original, name, runs[name], kept, images)
            if sums.changed:
                norm = layers.get(norms.get(name, ""))
                missing[name] = _solve(
                    layer, norm if isinstance(norm, _BatchNorm) else None, sums, ridge, rescale=rescale
                )
            if progress is not None and task is not None:
                progress.advance(task)
    return missing


class _Sums:
    """First and second moments of a layer's taps ``x`` in the cut network and of its outputs ``y`` in the original."""

    def __init__(self, taps: int, outputs: int, device: torch.device) -> None:
        self.count = 0
        self.changed = False
        self.x = torch.zeros(taps, dtype=torch.float64, device=device)
        self.y = torch.zeros(outputs, dtype=torch.float64, device=device)
        self.xx = torch.zeros(taps, taps, dtype=torch.float64, device=device)
        self.yx = torch.zeros(outputs, taps, dtype=torch.float64, device=device)
        self.yy = torch.zeros(outputs, dtype=torch.float64, device=device)

    @classmethod
    def over(
        cls,
        small: nn.Module,
        original: nn.Module,
        name: str,
        runs: int,
        kept: Tensor | None,
        images: Sequence[Tensor],
    ) -> _Sums:
        """Return the moments over all images, at evenly spread places where there are too many."""
        found: _Sums | None = None
        for batch in images:
            pairs = zip(*(_seen(net, name, runs, batch) for net in (small, original)), strict=True)
            for (layer, inputs, now), (_, _, before) in pairs:
                if kept is not None:
                    before = before.index_select(1 if before.dim() == 4 else -1, kept.to(before.device))
                x, y = _rows(layer, inputs), _outputs(before)
                if found is None:
                    found = cls(x.shape[1], y.shape[1], x.device)
                found.changed = found.changed or not torch.equal(now, before)
                most = ROWS + ROWS_PER_TAP * x.shape[1]
                step = max(1, len(x) * len(images) // most)
                found.add(x[::step].double(), y[::step].double())
        assert found is not None
        return found

    def add(self, x: Tensor, y: Tensor) -> None:
        self.count += len(x)
        self.x += x.sum(0)
        self.y += y.sum(0)
        self.xx += x.T @ x
        self.yx += y.T @ x
        self.yy += y.square().sum(0)


class _EnoughError(Exception):
    """Ends a forward pass."""


def _seen(model: nn.Module, name: str, runs: int, batch: Tensor) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Return (layer, input, output) for each of the ``runs`` times that the layer called ``name`` runs."""
    found: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((layer, args[0], output))
        if len(found) == runs:
            raise _EnoughError

    handle = model.get_submodule(name).register_forward_hook(note)
    try:
        model(batch)
    except _EnoughError:
        pass
    finally:
        handle.remove()
    return found


def _rows(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what each output is a weighted sum of: (outputs' places, weights of one filter)."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    padding = layer.padding
    if isinstance(padding, str) or layer.padding_mode != "zeros":
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        inputs, padding = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode), (0, 0)
    taps = F.unfold(inputs, layer.kernel_size, layer.dilation, padding, layer.stride)
    return taps.transpose(1, 2).reshape(-1, taps.shape[1])


def _outputs(output: Tensor) -> Tensor:
    """Return (places, channels) in the order of ``_rows``."""
    if output.dim() == 4:
        return output.flatten(2).transpose(1, 2).reshape(-1, output.shape[1])
    return output.reshape(-1, output.shape[-1])


def _kept_outputs(
    graph: ChannelGraph, keep: Mapping[str, Sequence[int]], original: nn.Module, name: str
) -> Tensor | None:
    """Return which outputs of a layer of the original the cut one still has; None for all."""
    gone: set[int] = set()
    for group in graph.groups.values():
        lost = set(range(group.size)) - set(keep.get(group.name, range(group.size)))
        for member in group.members:
            if member.parameter == f"{name}.weight" and member.axis == 0:
                gone.update(position for channel in lost for position in member.indices[channel])
    if not gone:
        return None
    weight = original.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return torch.tensor([position for position in range(len(weight)) if position not in gone])


def _looked_over(model: nn.Module, graph: ChannelGraph, batch: Tensor) -> tuple[dict[str, str], Counter[str]]:
    """Return which batch norm reads what a layer gave, by the layer's name, and how often each layer runs."""
    given: dict[str, Tensor] = {}
    norms: dict[str, str] = {}
    runs: Counter[str] = Counter()

    def gave(name: str, output: Tensor) -> None:
        given[name] = output
        runs[name] += 1

    def reads(norm: str, read: Tensor) -> None:
        norms.update({name: norm for name, output in given.items() if output is read})

    modules = dict(model.named_modules())
    handles = [
        modules[site.name].register_forward_hook(lambda _, __, output, name=site.name: gave(name, output))
        for site in graph.sites
        if site.name in modules
    ]
    handles += [
        module.register_forward_pre_hook(lambda _, args, name=name: reads(name, args[0]))
        for name, module in modules.items()
        if isinstance(module, _BatchNorm)
    ]
    try:
        with kept_modes(model), torch.no_grad():
            model.eval()
            model(batch)
    finally:
        for handle in handles:
            handle.remove()
    return norms, runs


def _solve(layer: nn.Module, norm: _BatchNorm | None, sums: _Sums, ridge: float, *, rescale: bool) -> float:
    """Put the solution of least squares into ``layer`` (and its norm), and return the share of variance it misses."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    weight = layer.weight.detach().double().flatten(1)
    # Without a bias or a norm to take it up, a shift is part of what the weights must give.
    shifts = layer.bias is not None or norm is not None
    mean_x = sums.x / sums.count if shifts else torch.zeros_like(sums.x)
    mean_y = sums.y / sums.count if shifts else torch.zeros_like(sums.y)
    xx = sums.xx / sums.count - torch.outer(mean_x, mean_x)
    yx = sums.yx / sums.count - torch.outer(mean_y, mean_x)
    yy = (sums.yy / sums.count - mean_y.square()).clamp(min=0)
    damped = xx + ridge * xx.diagonal().mean() * torch.eye(len(xx), dtype=xx.dtype, device=xx.device)
    if float(xx.diagonal().mean()) > 0:
        weight = weight + torch.linalg.solve(damped, (yx - weight @ xx).T).T
    explained = (weight @ xx * weight).sum(1)
    left = yy - 2 * (weight * yx).sum(1) + explained
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(mean_y - weight @ mean_x)
        elif norm is not None and norm.running_mean is not None and norm.running_var is not None:
            ratio = torch.ones_like(yy)
            if rescale:
                # Not of what is nearly gone: that would be noise, amplified.
                ratio = torch.where(yy > 0, explained / yy, 1.0).clamp(min=0.01)
            away = mean_y - norm.running_mean
            norm.running_mean.copy_(weight @ mean_x - away * ratio.sqrt())
            norm.running_var.copy_(((norm.running_var + norm.eps) * ratio - norm.eps).clamp(min=0))
    return float(left.clamp(min=0).sum() / yy.sum()) if float(yy.sum()) > 0 else 0.0
