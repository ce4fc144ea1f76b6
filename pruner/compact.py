"""Compact reference of norms: evaluate them over kept channels only, in a model of full size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pruner.graph.types import ChannelGraph

__all__ = ["CompactNorms"]

_ARGUMENTS = {
    nn.functional.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    nn.functional.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
    nn.functional.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training"),
    torch._weight_norm: ("v", "g", "dim"),
}


class CompactNorms(TorchFunctionMode):
    """Evaluates norms that average over channels on the kept channels only; the others become zero.

    That is: layer and group norms of activations, batch norms in training mode and weight norms that compute
    a weight, and means over channels inside modules that have their own scale for them (response norms).
    ``removed`` maps groups to removed channels.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, removed: Mapping[str, set[int]]) -> None:
        super().__init__()
        gone: dict[tuple[str, int], set[int]] = {}
        for name in graph.normalised:
            for member in graph.groups[name].members:
                positions = {p for channel in removed[name] for p in member.indices[channel]}
                gone.setdefault((member.parameter, member.axis), set()).update(positions)
        # by address: what is kept of a norm's scale, and of the inputs of a computed weight
        self._kept: dict[int, Tensor] = {}
        self._inputs: dict[int, tuple[Tensor, Tensor]] = {}
        self._active: list[Tensor] = []
        for path, module in model.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None and weight.dim() == 1 and gone.get((f"{path}.weight", 0)):
                rest = [i for i in range(weight.numel()) if i not in gone[f"{path}.weight", 0]]
                self._kept[id(weight)] = torch.tensor(rest)
                if not isinstance(module, nn.LayerNorm | nn.GroupNorm):
                    self._watch(module, torch.tensor(rest))
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and gone.get((name, 1)):
                keep = torch.ones(parameter.shape, dtype=torch.bool)
                keep[:, sorted(gone[name, 1])] = False
                self._inputs[parameter.untyped_storage().data_ptr()] = (parameter, keep)

    def _watch(self, module: nn.Module, kept: Tensor) -> None:
        def enter(*_: Any) -> None:
            self._active.append(kept)

        def leave(*_: Any) -> None:
            self._active.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func in _ARGUMENTS:
            values = {**named, **dict(zip(_ARGUMENTS[func], args, strict=False))}
            if func in (nn.functional.layer_norm, nn.functional.group_norm):
                index = self._kept.get(id(values.get("weight")))
                if index is not None:
                    return _affine(func, values, index)
            elif (source := self._computed(func, values)) is not None:
                return source
        elif func in (Tensor.mean, torch.mean) and self._active and isinstance(args[0], Tensor):
            axis, kept = named.get("dim", args[1] if len(args) > 1 else None), self._active[-1]
            # only the mean over the channels themselves: a pooled tensor has the size elsewhere
            if isinstance(axis, int) and args[0].shape[axis] > len(kept):
                args = (args[0].index_select(axis, kept), *args[1:])
        return func(*args, **named)

    def _computed(self, func: Callable[..., Any], values: dict[str, Any]) -> Tensor | None:
        """Return a standardised or normalised weight with zeros where it reads removed channels."""
        source = values["v" if func is torch._weight_norm else "input"]
        if not isinstance(source, Tensor) or source.untyped_storage().data_ptr() not in self._inputs:
            return None
        parameter, keep = self._inputs[source.untyped_storage().data_ptr()]
        if source.numel() != parameter.numel():
            return None
        result = torch.zeros_like(source)
        kept = keep.reshape(source.shape)
        if func is torch._weight_norm:
            axes = [axis for axis in range(source.dim()) if axis != values["dim"] % source.dim()]
            return source / (source * kept).pow(2).sum(axes, keepdim=True).sqrt() * values["g"] * kept
        columns = kept[0, 0].nonzero().flatten()  # (1, filters, weights of a filter)
        small = func(**{**values, "input": source.index_select(2, columns)})
        return result.index_copy(2, columns, small)


def _affine(func: Callable[..., Any], values: dict[str, Any], index: Tensor) -> Tensor:
    layer = func is nn.functional.layer_norm
    axis = values["input"].dim() - 1 if layer else 1
    full = torch.zeros_like(values["input"])
    values["input"] = values["input"].index_select(axis, index)
    for name in ("weight", "bias"):
        values[name] = values[name][index] if values.get(name) is not None else None
    if layer:
        values["normalized_shape"] = (len(index),)
    result: Tensor = func(**values)
    return full.index_copy(axis, index, result)
