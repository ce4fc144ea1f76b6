"""The removal oracle: the cut network must compute what the masked original computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from latency_model.errors import InputError
from pruner.compact import CompactNorms
from pruner.graph.example import Example, ForwardFn
from pruner.graph.types import ChannelGraph
from pruner.plan import Plan
from pruner.surgery import remove, resolve

__all__ = ["TOLERANCE", "CheckResult", "check", "mask", "randomise"]

TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How far the cut network is from the masked one.

    ``max_relative_error`` is the largest absolute difference of an output tensor divided by the largest
    absolute value of that output. ``outputs`` is the number of tensors compared.
    """

    max_relative_error: float
    ok: bool
    tolerance: float
    outputs: int


def check(
    model: nn.Module,
    graph: ChannelGraph,
    keep: Mapping[str, Sequence[int]] | Plan,
    blocks: Sequence[str] = (),
    *,
    inputs: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    forward_fn: ForwardFn | None = None,
    seed: int = 0,
    random_statistics: bool = True,
    tolerance: float = TOLERANCE,
) -> CheckResult:
    """Compare the masked original with the cut model on ``inputs``, in eval mode and fp32.

    ``keep`` maps groups to the channels that stay, as for ``remove``; or it is a whole plan.

    The masked original is built without surgery: the weights that read a removed channel are zero, and a hook
    makes the branch of a removed block zero. Norms that average over channels are evaluated over the kept
    ones only. ``random_statistics`` gives both copies the same random batch-norm statistics and shifts,
    without which a forgotten shift would not show, and random values for parameters that start near zero
    (layer scales, last norms of branches), which would hide a wrong branch. ``inputs``, ``kwargs`` and
    ``forward_fn`` are as for ``trace``; the inputs default to two random 64x64 RGB images.
    """
    if isinstance(keep, Plan):
        blocks = (*keep.blocks, *blocks)
        keep = keep.keep(graph)
    generator = torch.Generator().manual_seed(seed)
    base = copy.deepcopy(model).cpu().float().eval()
    if random_statistics:
        randomise(base, generator)
    if inputs is None:
        inputs = torch.randn(2, 3, 64, 64, generator=generator)
    example = Example.of(inputs, kwargs, forward_fn).map(
        lambda tensor: tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
    )
    masked, compact = mask(base, graph, keep, blocks)
    cut = remove(base, graph, keep, blocks=blocks)
    with compact:
        expected = [leaf for leaf in tree_leaves(example.run(masked)) if isinstance(leaf, Tensor)]
    actual = [leaf for leaf in tree_leaves(example.run(cut)) if isinstance(leaf, Tensor)]
    if not expected:
        raise InputError("the model returns no tensor; there is nothing to compare")
    worst = 0.0
    for left, right in zip(expected, actual, strict=True):
        worst = max(worst, _error(left, right))
    return CheckResult(worst, worst <= tolerance, tolerance, len(expected))


def _error(expected: Tensor, actual: Tensor) -> float:
    if expected.shape != actual.shape or not bool(torch.isfinite(actual.double()).all()):
        return float("inf")
    difference = (expected.double() - actual.double()).abs().max().item()
    scale = expected.double().abs().max().item()
    return difference / scale if scale else difference


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give ``model`` random batch-norm statistics and shifts, and values to parameters that are near zero."""
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            mean.normal_(0, 0.3, generator=generator)
            variance.uniform_(0.5, 1.5, generator=generator)
            for attribute in ("weight", "bias"):
                if isinstance(tensor := getattr(module, attribute, None), Tensor):
                    noise = torch.randn(tensor.shape, generator=generator)
                    tensor.data.add_(0.2 * noise)
    for parameter in model.parameters():
        if (
            parameter.is_floating_point()
            and parameter.numel()
            and float(parameter.detach().abs().max()) < 0.01
        ):
            # a scale or shift that starts at or near zero would hide what it multiplies
            parameter.data.normal_(0, 0.3, generator=generator)


def mask(
    model: nn.Module, graph: ChannelGraph, keep: Mapping[str, Sequence[int]], blocks: Sequence[str] = ()
) -> tuple[nn.Module, TorchFunctionMode]:
    """Return a full-size copy in which removed channels and blocks contribute zero, without surgery.

    Run the copy inside the returned mode, which evaluates layer and group norms over kept channels only.
    """
    kept, blocks = resolve(graph, keep, blocks)
    masked = copy.deepcopy(model)
    removed = {name: set(range(graph.groups[name].size)) - set(kept[name]) for name in graph.groups}
    with torch.no_grad():
        for gate in graph.gates:
            layer = masked.get_submodule(gate.module)
            gone = [i for i, channel in enumerate(gate.channels) if channel in removed[gate.group]]
            _zero_inputs(layer, gone)
    for name in blocks:
        masked.get_submodule(graph.block(name).tail).register_forward_hook(_zero_output)
    return masked, CompactNorms(masked, graph, removed)


_PLAIN = {
    nn.Linear.forward,
    *(layer.forward for layer in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    *(layer.forward for layer in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
}


def _without(value: Tensor, axis: int, positions: Sequence[int]) -> Tensor:
    return value.index_fill(axis, torch.tensor(positions, dtype=torch.long), 0.0)


def _zero_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    del module, args
    return torch.zeros_like(output)


def _zero_inputs(layer: nn.Module, positions: Sequence[int]) -> None:
    """Make the weights of ``layer`` that read the input channels ``positions`` zero."""
    weight: Any = layer.weight
    if type(layer).forward not in _PLAIN or "weight" not in layer._parameters:
        # the weight is computed in the forward: it is what is read that must be zero
        axis = -1 if isinstance(layer, nn.Linear) else 1
        layer.register_forward_pre_hook(lambda _, args: (_without(args[0], axis, positions), *args[1:]))
        return
    if isinstance(layer, nn.Linear):
        weight[:, list(positions)] = 0
    elif layer.transposed:
        weight[list(positions)] = 0
    else:
        filters = weight.shape[0] // int(layer.groups)  # type: ignore[arg-type]
        for position in positions:
            part, offset = divmod(position, weight.shape[1])
            weight[part * filters : (part + 1) * filters, offset] = 0
