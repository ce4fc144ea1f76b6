"""What each ATen operator does to channel labels: a registry by operator name.

A rule reads the labels of the inputs, joins or freezes classes, binds parameter axes, and stores the labels
of the output. An operator without a rule keeps all its inputs whole and is reported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.fx import Node

from pruner.graph.context import Call, Context, Rule, value_of, where
from pruner.graph.labels import FIXED, fixed, varying

__all__ = ["RULES", "rule"]

RULES: dict[str, Rule] = {}

_ELEMENTWISE = """
abs add alias bernoulli celu clamp clamp_max clamp_min clone contiguous copy detach div dropout elu
erf exp feature_dropout gelu hardsigmoid hardswish hardtanh leaky_relu lift_fresh_copy log
log_sigmoid log1p maximum minimum mish mul neg pow reciprocal relu relu6 rrelu rsqrt rsub selu
sigmoid silu softplus sqrt square sub tanh threshold to type_as where _to_copy alpha_dropout
feature_alpha_dropout logical_not eq ne gt ge lt le zeros_like ones_like full_like fill zero
masked_fill
"""
_SPATIAL = """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
 adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
 max_pool2d_with_indices upsample_nearest1d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d
 upsample_linear1d upsample_trilinear3d upsample_nearest3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
 reflection_pad2d replication_pad2d reflection_pad1d replication_pad1d"""
_MOVE = """view reshape flatten unflatten permute transpose t unsqueeze squeeze expand cat concat concatenate
 stack pixel_shuffle pixel_unshuffle flip repeat swapaxes swapdims movedim moveaxis expand_as
 view_as reshape_as mT numpy_T _unsafe_view unbind tile repeat_interleave"""
_REDUCE = "mean sum amax amin var std logsumexp linalg_vector_norm norm"

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def rule(names: str) -> Callable[[Rule], Rule]:
    """Register a rule for the ATen operators ``names``, separated by blanks, and their in-place forms."""

    def register(function: Rule) -> Rule:
        for name in names.split():
            RULES[name] = RULES[name + "_"] = function
        return function

    return register


@rule("conv1d conv2d conv3d")
def _convolution(context: Context, node: Node, call: Call) -> None:
    source, weight, bias = call["input"], call["weight"], call["bias"]
    groups = call["groups"]
    name = context.layer(node, weight, _CONVOLUTIONS)
    if name is None:
        return context.whole_site(
            node, "conv", "a convolution outside of a module, or with a computed weight"
        )
    outputs, per_group = value_of(weight).shape[:2]
    inputs = context.along(source, 1)
    if groups == 1:
        kind, written = "conv", context.labels.new(outputs)
        context.bind(weight, 1, inputs)
    elif per_group == 1:
        # one filter (several with a multiplier) per input channel: output and input are one channel
        kind, written = "depthwise", inputs.repeat_interleave(outputs // groups)
    else:
        kind, written = "grouped", context.labels.new(outputs // groups).repeat(groups)
        first = _couple(context, inputs.reshape(groups, per_group), where(node))
        context.bind(weight, 1, first)
    context.bind(weight, 0, written)
    context.bind(bias, 0, written)
    context.add_site(name, kind, inputs, written)
    context.values[node] = written.reshape(1, -1, *[1] * (value_of(node).dim() - 2))
    return None


@rule("conv_transpose1d conv_transpose2d conv_transpose3d")
def _transposed(context: Context, node: Node, call: Call) -> None:
    source, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    name = context.layer(node, weight, _TRANSPOSED)
    if name is None:
        return context.whole_site(
            node, "conv", "a convolution outside of a module, or with a computed weight"
        )
    total, per_group = value_of(weight).shape[:2]
    inputs = context.along(source, 1)
    context.bind(weight, 0, inputs)
    if groups == total:
        kind, written = "depthwise", inputs.repeat_interleave(per_group)
    else:
        kind, one = "transposed", context.labels.new(per_group)
        written = one.repeat(groups)
        context.bind(weight, 1, one)
        if groups > 1:
            _couple(context, inputs.reshape(groups, -1), where(node))
    context.bind(bias, 0, written)
    context.add_site(name, kind, inputs, written)
    context.values[node] = written.reshape(1, -1, *[1] * (value_of(node).dim() - 2))
    return None


@rule("linear")
def _linear(context: Context, node: Node, call: Call) -> None:
    source, weight, bias = call["input"], call["weight"], call["bias"]
    name = context.layer(node, weight, (nn.Linear,))
    if name is None:
        return context.whole_site(node, "linear", "a matrix product outside of a Linear module")
    inputs = context.along(source, -1)
    written = context.labels.new(value_of(weight).shape[0])
    context.bind(weight, 1, inputs)
    context.bind(weight, 0, written)
    context.bind(bias, 0, written)
    context.add_site(name, "linear", inputs, written)
    context.values[node] = written.reshape(*[1] * (value_of(node).dim() - 1), -1)
    return None


def _couple(context: Context, rows: Tensor, place: str) -> Tensor:
    """Join the rows, so that equal parts shrink alike; return the first."""
    for row in rows[1:]:
        context.labels.unify(rows[0], row, f"part of it stays whole, and the parts must be equal, at {place}")
    return rows[0]


@rule("batch_norm instance_norm _native_batch_norm_legit_no_training")
def _batch_norm(context: Context, node: Node, call: Call) -> None:
    labels = context.along(call["input"], 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        context.bind(call.get(name), 0, labels)
    value = value_of(node)
    shaped = labels.reshape(1, -1, *[1] * (value_of(call["input"]).dim() - 2))
    context.values[node] = [shaped, fixed(1), fixed(1)] if isinstance(value, list | tuple) else shaped


@rule("layer_norm")
def _layer_norm(context: Context, node: Node, call: Call) -> None:
    source = call["input"]
    if len(call["normalized_shape"]) != 1:
        return context.opaque(node, f"a layer norm over several axes at {where(node)}")
    labels = context.along(source, -1)
    context.bind(call["weight"], 0, labels)
    context.bind(call["bias"], 0, labels)
    context.normalised.append(labels)
    context.values[node] = labels.reshape(*[1] * (value_of(source).dim() - 1), -1)
    return None


@rule("group_norm")
def _group_norm(context: Context, node: Node, call: Call) -> None:
    source = call["input"]
    if call["num_groups"] != 1:
        return context.opaque(node, f"a group norm with {call['num_groups']} groups at {where(node)}")
    labels = context.along(source, 1)
    context.bind(call["weight"], 0, labels)
    context.bind(call["bias"], 0, labels)
    context.normalised.append(labels)
    context.values[node] = labels.reshape(1, -1, *[1] * (value_of(source).dim() - 2))
    return None


@rule("prelu")
def _prelu(context: Context, node: Node, call: Call) -> None:
    source, weight = call["self"], call["weight"]
    if value_of(weight).numel() > 1:
        context.bind(weight, 0, context.along(source, 1))
    context.values[node] = context.label(source)


@rule(_ELEMENTWISE)
def _elementwise(context: Context, node: Node, call: Call) -> None:
    del call
    value = value_of(node)
    rank, place = value.dim(), where(node)
    tensors = [source for source in node.all_input_nodes if hasattr(value_of(source), "shape")]
    extents = {
        source: [1] * (rank - value_of(source).dim()) + list(value_of(source).shape) for source in tensors
    }
    aligned = {
        source: labels.reshape([1] * (rank - labels.dim()) + list(labels.shape))
        for source in tensors
        if source not in context.leaves
        for labels in [context.label(source)]
    }
    axes = sorted({axis for labels in aligned.values() for axis in varying(labels)})
    if not aligned:
        for source in tensors:
            context.freeze_leaf(source, f"part of a computed constant at {place}")
        context.values[node] = fixed(rank)
        return
    joined: list[Tensor] = []
    for source, labels in aligned.items():
        extent = extents[source]
        if any(extent[axis] > 1 for axis in axes) or (not axes and value_of(source).numel() > 1):
            joined.append(labels)
        else:
            # one value for all channels (a spatial attention map): it cannot be removed by itself
            context.labels.freeze(labels, f"spread over all channels at {place}")
    result = joined[0] if joined else fixed(rank)
    for labels in joined[1:]:
        context.labels.unify(result, labels, f"combined with something that stays whole at {place}")
        result = result if len(varying(result)) >= len(varying(labels)) else labels
    result = context.labels.compact(result)
    for source in tensors:
        if source in context.leaves and value_of(source).numel() > 1:
            _bind_operand(context, source, extents[source], result, axes, place)
    context.values[node] = result


def _bind_operand(
    context: Context, leaf: Node, extent: list[int], labels: Tensor, axes: list[int], place: str
) -> None:
    """Bind the axis of a parameter that is added or multiplied along the labelled axis."""
    mine = [axis for axis in axes if extent[axis] > 1]
    if len(mine) == 1:
        axis = mine[0]
        one = context.labels.along(
            labels, axis, extent[axis], f"channels are spread over several axes at {place}"
        )
        context.bind(leaf, axis - (len(extent) - value_of(leaf).dim()), one)
    elif mine:
        context.freeze_leaf(leaf, f"combined with several labelled axes at {place}")
        context.labels.freeze(labels, f"a parameter spans several labelled axes at {place}")


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


@rule(_REDUCE)
def _reduce(context: Context, node: Node, call: Call) -> None:
    source = call.get("self", call.get("input"))
    labels, rank = context.label(source), value_of(source).dim()
    axes = call.get("dim")
    axes = list(range(rank)) if axes in (None, []) else [axes] if isinstance(axes, int) else list(axes)
    axes = sorted({axis % rank for axis in axes})
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


@rule("softmax _softmax log_softmax _log_softmax")
def _softmax(context: Context, node: Node, call: Call) -> None:
    labels = context.label(call["self"])
    if call["dim"] % labels.dim() in varying(labels):
        return context.opaque(node, f"a softmax over channels at {where(node)}")
    context.values[node] = labels
    return None


@rule("slice narrow")
def _slice(context: Context, node: Node, call: Call) -> None:
    source = call["self"]
    labels, rank = context.label(source), value_of(source).dim()
    axis = (call["dim"] or 0) % rank
    size, kept = value_of(source).shape[axis], value_of(node).shape[axis]
    if axis in varying(labels) and kept != size:
        start = call["start"] or 0
        start = start + size if start < 0 else start
        step = call.get("step", 1)
        if step != 1 or size % kept or start % kept:
            context.labels.freeze(labels, f"cut into unequal parts at {where(node)}")
        else:
            _equal_parts(context, labels, axis, kept, where(node))
        labels = labels.narrow(axis, start, min(kept * step, size - start))[
            tuple(slice(None, None, step if i == axis else 1) for i in range(rank))
        ]
    context.values[node] = labels


@rule("select")
def _select(context: Context, node: Node, call: Call) -> None:
    labels = context.label(call["self"])
    axis = call["dim"] % labels.dim()
    if axis in varying(labels):
        context.labels.freeze(labels, f"a single channel is picked at {where(node)}")
        labels = labels.select(axis, call["index"])
    else:
        labels = labels.select(axis, 0)
    context.values[node] = labels


@rule("split split_with_sizes chunk unsafe_split unsafe_chunk")
def _split(context: Context, node: Node, call: Call) -> None:
    source = call["self"]
    labels, axis = context.label(source), call["dim"] % value_of(source).dim()
    sizes = [part.shape[axis] for part in value_of(node)]
    if axis not in varying(labels):
        context.values[node] = [labels] * len(sizes)
        return
    if len(set(sizes)) == 1:
        _equal_parts(context, labels, axis, sizes[0], where(node))
    else:
        context.labels.freeze(labels, f"split into unequal parts at {where(node)}")
    context.values[node] = list(torch.split(labels, sizes, dim=axis))


def _equal_parts(context: Context, labels: Tensor, axis: int, size: int, place: str) -> None:
    """Join the equal parts along ``axis``: the code that divides them expects them to stay equal."""
    first, *others = torch.split(labels, size, dim=axis)
    for part in others:
        context.labels.unify(first, part, f"part of it stays whole, and the parts must be equal, at {place}")


@rule("channel_shuffle native_channel_shuffle")
def _channel_shuffle(context: Context, node: Node, call: Call) -> None:
    source, groups = call["self"], call["groups"]
    size = value_of(source).shape[1]
    labels = context.along(source, 1)
    _couple(context, labels.reshape(groups, size // groups), where(node))
    shuffled = context.labels.roots(labels).reshape(groups, -1).t().reshape(-1)
    context.values[node] = shuffled.reshape(1, -1, *[1] * (value_of(source).dim() - 2))


def _is_view(node: Node) -> bool:
    return any(name in str(node.target) for name in ("view", "reshape", "unflatten"))


@rule(_MOVE)
def _move(context: Context, node: Node, call: Call) -> None:
    del call

    def labelled(argument: object) -> object:
        if isinstance(argument, Node):
            held = context.values.get(argument)
            return held if isinstance(held, list) else context.full(argument).contiguous()
        if isinstance(argument, list | tuple):
            return [labelled(item) for item in argument]
        return argument

    moved = node.target(  # type: ignore[operator]
        *[labelled(argument) for argument in node.args],
        **{name: labelled(argument) for name, argument in node.kwargs.items()},
    )
    if not isinstance(moved, Tensor):
        context.values[node] = [context.labels.compact(part) for part in moved]
        return
    labels = context.labels.compact(moved)
    source = node.all_input_nodes[0]
    before = context.label(source) if isinstance(context.values.get(source), Tensor) else labels
    if _is_view(node) and len(varying(labels)) > max(1, len(varying(before))):
        # one axis became several (a view to groups x channels): the groups shrink alike
        axis = varying(labels)[0]
        _equal_parts(context, labels, axis, 1, where(node))
        labels = context.labels.compact(labels)
    context.values[node] = labels
