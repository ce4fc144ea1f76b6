"""Cut channels and residual branches out of a model: the small network, as plain modules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from latency_model.errors import InputError
from pruner.graph.types import Block, ChannelGraph
from pruner.plan import Plan

__all__ = ["apply", "remove", "replace_block", "resolve", "set_number", "set_tensor", "skeleton", "widths"]

_FUNCTIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "hardsigmoid": nn.Hardsigmoid,
}


def apply(model: nn.Module, graph: ChannelGraph, plan: Plan) -> nn.Module:
    """Return ``model`` cut as ``plan`` says; ``InputError`` when the plan was made for another structure."""
    return remove(model, graph, plan.keep(graph), blocks=plan.blocks)


def remove(
    model: nn.Module, graph: ChannelGraph, keep: Mapping[str, Sequence[int]], *, blocks: Sequence[str] = ()
) -> nn.Module:
    """Return a new plain module with only the kept channels; ``model`` itself stays as it is.

    ``keep`` maps groups to the channel indices that stay; groups that it does not name stay whole. A removed
    channel, and the branch of a removed block, contributes exactly zero to everything that reads it. When all
    groups of a block are kept empty, the block is removed; any other empty group is an ``InputError``.
    Dtype, memory format, ``requires_grad``, the settings of norms and the training mode are kept.
    """
    keep, blocks = resolve(graph, keep, blocks)
    pruned = copy.deepcopy(model)
    _cut(pruned, graph, keep)
    for attribute in graph.attributes:
        count = attribute.channels.fixed + sum(
            times * len(keep[group]) for group, times in attribute.channels.terms
        )
        set_number(pruned.get_submodule(attribute.module), attribute.name, attribute.position, count)
    for name in blocks:
        replace_block(pruned, graph.block(name))
    return pruned


def resolve(
    graph: ChannelGraph, keep: Mapping[str, Sequence[int]], blocks: Sequence[str] = ()
) -> tuple[dict[str, list[int]], list[str]]:
    """Return checked, sorted indices to keep for each group, and all removed blocks in forward order.

    A block whose groups are all kept empty joins the removed blocks; groups of removed blocks stay whole in
    the returned mapping, they vanish with their block.
    """
    kept: dict[str, list[int]] = {name: list(range(size)) for name, size in graph.sizes().items()}
    for name, indices in keep.items():
        if name not in kept:
            raise InputError(
                f"no channel group {name!r} in this model; trace it again and use its group names"
            )
        size = graph.groups[name].size
        kept[name] = sorted({int(index) for index in indices})
        if kept[name] and not (kept[name][0] >= 0 and kept[name][-1] < size):
            raise InputError(f"group {name} has channels 0 to {size - 1}; it has no others to keep")
    removed = {graph.block(name).name for name in blocks}
    removed |= {b.name for b in graph.blocks if b.groups and not any(kept[group] for group in b.groups)}
    inside = {group for name in removed for group in graph.block(name).groups}
    for name, indices in kept.items():
        if name in inside:
            kept[name] = list(range(graph.groups[name].size))
        elif not indices:
            raise InputError(
                f"group {name} would lose all its channels; keep at least one, or remove its whole block"
            )
    return kept, [block.name for block in graph.blocks if block.name in removed]


def _cut(model: nn.Module, graph: ChannelGraph, keep: Mapping[str, Sequence[int]]) -> None:
    gone: dict[tuple[str, int], set[int]] = {}
    for name, group in graph.groups.items():
        removed = set(range(group.size)) - set(keep[name])
        for member in group.members if removed else ():
            positions = gone.setdefault((member.parameter, member.axis), set())
            positions.update(position for channel in removed for position in member.indices[channel])
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sliced: dict[str, Tensor] = {}
    for (name, axis), positions in gone.items():
        tensor = sliced.get(name, tensors[name].detach())
        rest = [position for position in range(tensor.shape[axis]) if position not in positions]
        sliced[name] = tensor.index_select(axis, torch.tensor(rest, device=tensor.device))
    new = {id(tensors[name]): like(tensors[name], tensor) for name, tensor in sliced.items()}
    touched: list[tuple[nn.Module, str, Tensor]] = []
    for module in model.modules():
        for attribute, held in (*module._parameters.items(), *module._buffers.items()):
            if held is not None and id(held) in new:
                touched.append((module, attribute, new[id(held)]))
    for module, attribute, tensor in touched:
        set_tensor(module, attribute, tensor)
    depthwise = {site.name for site in graph.sites if site.kind == "depthwise"}
    for path, module in model.named_modules():
        _fix_widths(module, depthwise=path in depthwise)


def skeleton(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` on the meta device, tied parameters still tied, without copying values."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = like(tensor, empty)
    return copy.deepcopy(model, memo)


def like(old: Tensor, new: Tensor) -> Tensor:
    """Return ``new`` in the memory format of ``old``, as a parameter if ``old`` is one."""
    for rank, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if old.dim() == rank and not old.is_contiguous() and old.is_contiguous(memory_format=memory_format):
            new = new.contiguous(memory_format=memory_format)
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def set_tensor(module: nn.Module, attribute: str, tensor: Tensor) -> None:
    """Put ``tensor`` in the place of a parameter or buffer of ``module``."""
    if attribute in module._parameters:
        module._parameters[attribute] = tensor  # type: ignore[assignment]
    else:
        module._buffers[attribute] = tensor


def _fix_widths(module: nn.Module, *, depthwise: bool) -> None:
    """Make the width attributes of a layer agree with its tensors."""
    if isinstance(module, _ConvNd):
        if module.transposed:
            module.groups = module.weight.shape[0] if depthwise else module.groups
            module.in_channels, per_group = module.weight.shape[:2]
            module.out_channels = per_group * module.groups
        else:
            if depthwise:
                module.groups = module.weight.shape[0] // (module.out_channels // module.groups)
            module.out_channels, per_group = module.weight.shape[:2]
            module.in_channels = per_group * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _NormBase):
        tensors = [t for t in (module.running_mean, module.weight) if t is not None]
        module.num_features = tensors[0].numel() if tensors else module.num_features
    elif isinstance(module, nn.LayerNorm) and module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm) and module.weight is not None:
        module.num_channels = module.weight.numel()
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()


def set_number(module: nn.Module, name: str, position: int, value: int) -> None:
    """Set the attribute ``name`` of ``module``, or its element ``position`` when that is not negative."""
    held = getattr(module, name)
    if position >= 0:
        values = [value if index == position else item for index, item in enumerate(held)]
        setattr(module, name, type(held)(values))
    else:
        setattr(module, name, value)


WIDTHS = (
    "in_channels",
    "out_channels",
    "groups",
    "in_features",
    "out_features",
    "num_features",
    "num_channels",
    "normalized_shape",
    "num_parameters",
)


def widths(module: nn.Module) -> dict[str, Any]:
    """Return the width attributes of one layer, JSON-ready."""
    known = (_ConvNd, nn.Linear, _NormBase, nn.LayerNorm, nn.GroupNorm, nn.PReLU)
    if not isinstance(module, known):
        return {}
    found = {name: getattr(module, name) for name in WIDTHS if hasattr(module, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def replace_block(model: nn.Module, block: Block) -> None:
    """Replace a residual block of ``model`` by its shortcut and the activation after it."""
    parts = [model.get_submodule(path) for path in block.skip]
    if block.activation.startswith("function:"):
        parts.append(_FUNCTIONS[block.activation.removeprefix("function:")]())
    elif block.activation:
        activation: Any = copy.deepcopy(model.get_submodule(block.activation))
        if hasattr(activation, "inplace"):
            # the sum was a new tensor; the block's input may be read elsewhere
            activation.inplace = False
        parts.append(activation)
    whole = nn.Identity() if not parts else parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    whole.train(model.get_submodule(block.name).training)
    parent, _, attribute = block.name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, whole)
