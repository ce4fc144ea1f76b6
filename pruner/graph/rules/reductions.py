"""Pooling, padding and reductions: harmless along other axes, a reason to stay whole along channels."""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from pruner.graph.context import Call, Context, module_path, value_of, where
from pruner.graph.labels import FIXED, fixed, varying
from pruner.graph.rules.registry import rule

__all__ = ["REDUCE"]

_SPATIAL = """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
 adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
 max_pool2d_with_indices upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
 upsample_linear1d upsample_trilinear3d upsample_nearest3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
 reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d"""
REDUCE = "mean sum amax amin var std logsumexp linalg_vector_norm norm"


@rule(_SPATIAL)
def _spatial(context: Context, node: Node, call: Call) -> None:
    source = call.get("self", call.get("input"))
    labels, value = context.label(source), value_of(node)
    if any(axis > 1 for axis in varying(labels)):
        return context.opaque(node, f"pooling or resizing over channels at {where(node)}")
    context.values[node] = [labels, labels] if isinstance(value, list | tuple) else labels
    return None


@rule("pad constant_pad_nd")
def _pad(context: Context, node: Node, call: Call) -> None:
    labels, pad = context.label(call["self"]), list(call["pad"])
    rank = labels.dim()
    touched = [rank - 1 - i // 2 for i, amount in enumerate(pad) if amount]
    if not set(touched) & set(varying(labels)):
        if len(varying(labels)) == 0:
            context.labels.freeze(labels, f"padded at {where(node)}")
        context.values[node] = labels
        return None
    if len(set(touched)) > 1 or call.get("mode", "constant") != "constant" or min(pad) < 0:
        return context.opaque(node, f"padding over channels at {where(node)}")
    # the new positions are constants: whatever they are combined with stays whole
    context.values[node] = nn.functional.pad(context.full(call["self"]), pad, value=FIXED)
    return None


@rule(REDUCE)
def _reduce(context: Context, node: Node, call: Call) -> None:
    source = call.get("self", call.get("input"))
    labels, rank = context.label(source), value_of(source).dim()
    axes = call.get("dim")
    axes = list(range(rank)) if axes in (None, []) else [axes] if isinstance(axes, int) else list(axes)
    axes = sorted({axis % rank for axis in axes})
    if axes == varying(labels) and _is_response(context, node, value_of(source).shape[axes[0]]):
        context.normalised.append(labels.reshape(-1))
        context.values[node] = fixed(rank)
        return None
    if set(axes) & set(varying(labels)):
        kept = [axis for axis in varying(labels) if axis not in axes]
        if len(kept) != 1:
            return context.opaque(node, f"a reduction over channels at {where(node)}")
        size = value_of(source).shape[kept[0]]
        why = f"a reduction over channels at {where(node)}"
        one = context.labels.along(labels, kept[0], size, why)
        labels = one.reshape([-1 if axis == kept[0] else 1 for axis in range(rank)])
    if value_of(node).dim() != rank:
        for axis in reversed(axes):
            labels = labels.squeeze(axis)
    context.values[node] = labels
    return None


def _is_response(context: Context, node: Node, size: int) -> bool:
    """Return whether ``node`` is the mean of a norm written out in a module with a scale for each channel."""
    module = context.modules.get(module_path(node))
    weight = module._parameters.get("weight") if module is not None else None
    kept = value_of(node).dim() == value_of(node.all_input_nodes[0]).dim()
    return kept and "mean" in str(node.target) and weight is not None and tuple(weight.shape) == (size,)


@rule("softmax _softmax log_softmax _log_softmax")
def _softmax(context: Context, node: Node, call: Call) -> None:
    labels = context.label(call["self"])
    if call["dim"] % labels.dim() in varying(labels):
        return context.opaque(node, f"a softmax over channels at {where(node)}")
    context.values[node] = labels
    return None
