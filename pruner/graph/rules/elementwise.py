"""Element-wise operators: what is combined position by position has one label."""

from __future__ import annotations

from torch import Tensor
from torch.fx import Node

from pruner.graph.context import Call, Context, value_of, where
from pruner.graph.labels import fixed, varying
from pruner.graph.rules.registry import rule

__all__ = ["ELEMENTWISE"]

ELEMENTWISE = """
abs add alias bernoulli celu clamp clamp_max clamp_min clone contiguous copy detach div dropout elu
erf exp feature_dropout gelu hardsigmoid hardswish hardtanh leaky_relu lift_fresh_copy log
log_sigmoid log1p maximum minimum mish mul neg pow reciprocal relu relu6 rrelu rsqrt rsub selu
sigmoid silu softplus sqrt square sub tanh threshold to type_as where _to_copy alpha_dropout
feature_alpha_dropout logical_not eq ne gt ge lt le zeros_like ones_like full_like fill zero
masked_fill addcmul
"""


@rule("prelu")
def _prelu(context: Context, node: Node, call: Call) -> None:
    source, weight = call["self"], call["weight"]
    if value_of(weight).numel() > 1:
        context.bind(weight, 0, context.along(source, 1))
    context.values[node] = context.label(source)


@rule(ELEMENTWISE)
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
        if not context.is_weight(source)
        for labels in [context.label(source)]
    }
    axes = sorted({axis for labels in aligned.values() for axis in varying(labels)})
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
        if context.is_weight(source) and value_of(source).numel() > 1:
            _bind_operand(context, source, extents[source], result, axes, place)
    context.values[node] = result


def _bind_operand(
    context: Context, leaf: Node, extent: list[int], labels: Tensor, axes: list[int], place: str
) -> None:
    """Bind the axis of a parameter that is added or multiplied along the labelled axis."""
    mine = [axis for axis in axes if extent[axis] > 1]
    missing = len(extent) - value_of(leaf).dim()
    for axis, size in enumerate(extent):
        if size > 1 and mine != [axis]:
            context.keep_axis(leaf, axis - missing, f"combined with something that stays whole at {place}")
    if len(mine) == 1:
        axis = mine[0]
        why = f"channels are spread over several axes at {place}"
        context.bind(leaf, axis - missing, context.labels.along(labels, axis, extent[axis], why))
    elif mine:
        context.labels.freeze(labels, f"a parameter spans several labelled axes at {place}")
