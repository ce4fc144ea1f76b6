"""The removal oracle: the cut network must compute what the masked original computes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from latency_model.errors import InputError
from pruner.graph.types import ChannelGraph
from pruner.surgery import remove, resolve

__all__ = ["TOLERANCE", "CheckResult", "check", "mask"]

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
    keep: Mapping[str, Sequence[int]],
    blocks: Sequence[str] = (),
    *,
    inputs: Tensor | tuple[Any, ...] | None = None,
    seed: int = 0,
    random_statistics: bool = True,
    tolerance: float = TOLERANCE,
) -> CheckResult:
    """Compare the masked original with the cut model on ``inputs``, in eval mode and fp32.

    The masked original is built without surgery: the weights that read a removed channel are zero, and a hook
    makes the branch of a removed block zero. Norms that average over channels are evaluated over the kept
    ones only. ``random_statistics`` gives both copies the same random batch-norm statistics and shifts,
    without which a forgotten shift would not show. ``inputs`` defaults to two random 64x64 RGB images.
    """
    generator = torch.Generator().manual_seed(seed)
    base = copy.deepcopy(model).cpu().float().eval()
    if random_statistics:
        _randomise(base, generator)
    if inputs is None:
        inputs = torch.randn(2, 3, 64, 64, generator=generator)
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    args = tree_map_only(Tensor, lambda t: t.cpu().float() if t.is_floating_point() else t.cpu(), args)
    masked, compact = mask(base, graph, keep, blocks)
    cut = remove(base, graph, keep, blocks=blocks)
    with torch.no_grad(), compact:
        expected = [leaf for leaf in tree_leaves(masked(*args)) if isinstance(leaf, Tensor)]
    with torch.no_grad():
        actual = [leaf for leaf in tree_leaves(cut(*args)) if isinstance(leaf, Tensor)]
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


def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    for module in model.modules():
        mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            mean.normal_(0, 0.3, generator=generator)
            variance.uniform_(0.5, 1.5, generator=generator)
            for attribute in ("weight", "bias"):
                if isinstance(tensor := getattr(module, attribute, None), Tensor):
                    noise = torch.randn(tensor.shape, generator=generator)
                    tensor.data.add_(0.2 * noise)


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
    return masked, _CompactNorms(masked, graph, removed)


def _zero_output(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    del module, args
    return torch.zeros_like(output)


def _zero_inputs(layer: nn.Module, positions: Sequence[int]) -> None:
    """Make the weights of ``layer`` that read the input channels ``positions`` zero."""
    weight: Any = layer.weight
    if isinstance(layer, nn.Linear):
        weight[:, list(positions)] = 0
    elif layer.transposed:
        weight[list(positions)] = 0
    else:
        filters = weight.shape[0] // int(layer.groups)  # type: ignore[arg-type]
        for position in positions:
            part, offset = divmod(position, weight.shape[1])
            weight[part * filters : (part + 1) * filters, offset] = 0


class _CompactNorms(TorchFunctionMode):
    """Evaluates norms that average over channels on the kept channels only; the others become zero."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, removed: Mapping[str, set[int]]) -> None:
        super().__init__()
        gone: dict[str, set[int]] = {}
        for name in graph.normalised:
            for member in graph.groups[name].members:
                positions = {p for channel in removed[name] for p in member.indices[channel]}
                gone.setdefault(member.parameter, set()).update(positions)
        self._kept: dict[int, Tensor] = {}
        for path, module in model.named_modules():
            if isinstance(module, nn.LayerNorm | nn.GroupNorm) and gone.get(f"{path}.weight"):
                weight = module.weight
                rest = [i for i in range(weight.numel()) if i not in gone[f"{path}.weight"]]
                self._kept[id(weight)] = torch.tensor(rest)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        values = dict(kwargs or {})
        layer, group = func is nn.functional.layer_norm, func is nn.functional.group_norm
        if layer or group:
            names = ("input", "normalized_shape" if layer else "num_groups", "weight", "bias", "eps")
            values.update(zip(names, args, strict=False))
            index = self._kept.get(id(values.get("weight")))
            if index is not None:
                axis = values["input"].dim() - 1 if layer else 1
                full = torch.zeros_like(values["input"])
                values["input"] = values["input"].index_select(axis, index)
                for name in ("weight", "bias"):
                    values[name] = values[name][index] if values.get(name) is not None else None
                if layer:
                    values["normalized_shape"] = (len(index),)
                return full.index_copy(axis, index, func(**values))
        return func(*args, **(kwargs or {}))
