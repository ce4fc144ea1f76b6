"""Weights that the model computes from its parameters: standardised, normalised, scaled or reshaped ones."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pruner.graph.context import Call, Context, value_of, where
from pruner.graph.labels import fixed, varying
from pruner.graph.rules.elementwise import ELEMENTWISE
from pruner.graph.rules.movement import MOVE
from pruner.graph.rules.reductions import REDUCE

__all__ = ["compute_weight", "computes_weight"]


def computes_weight(context: Context, node: Node) -> bool:
    """Return whether ``node`` is a tensor computed from parameters and constants alone."""
    sources = node.all_input_nodes
    return (
        any(context.is_weight(source) for source in sources)
        and isinstance(value_of(node), Tensor)
        and all(context.is_weight(source) or source.op == "get_attr" for source in sources)
    )


def compute_weight(context: Context, node: Node, name: str) -> None:
    """Store the label tensors of the computed weight ``node``; an operator that mixes them keeps it whole."""
    name = name if name in _MOVE else name.removesuffix("_")
    weights = [source for source in node.all_input_nodes if context.is_weight(source)]
    context.origins[node] = frozenset().union(*(context.parameters_of(source) for source in weights))
    context.values[node] = fixed(value_of(node).dim())
    if name in _ELEMENTWISE:
        layers = _combined(context, node, weights)
    elif name in _MOVE and (len(weights) == 1 or name in _SHAPED):
        layers = _moved(context, node, node.all_input_nodes[0])
    elif name in _REDUCE and len(weights) == 1:
        layers = _reduced(context, node, weights[0])
    elif name == "batch_norm":
        layers = _standardised(context, node)
    elif name == "_weight_norm":
        layers = _normalised(context, node)
    else:
        layers = _whole(context, node, f"read by aten.{name}")
    context.computed[node] = [layer for layer in layers if varying(layer)]


_ELEMENTWISE, _MOVE, _REDUCE = (set(names.split()) for names in (ELEMENTWISE, MOVE, REDUCE))


_SHAPED = ("reshape_as", "view_as", "expand_as")


def _whole(context: Context, node: Node, why: str) -> list[Tensor]:
    for source in node.all_input_nodes:
        if context.is_weight(source):
            context.freeze_leaf(source, f"{why} at {where(node)}")
    return []


def _moved(context: Context, node: Node, weight: Node) -> list[Tensor]:
    if value_of(weight).numel() != value_of(node).numel() and "expand" not in str(node.target):
        return _whole(context, node, "repeated or taken in parts")
    shape = value_of(weight).shape

    def labelled(argument: object, layer: Tensor) -> object:
        if isinstance(argument, Node) and argument is not weight:
            return torch.zeros(1).expand(value_of(argument).shape)  # only its shape is read
        return layer.expand(shape).contiguous() if argument is weight else argument

    moved = []
    for layer in context.layers(weight):
        arguments = [labelled(argument, layer) for argument in node.args]
        named = {key: labelled(argument, layer) for key, argument in node.kwargs.items()}
        moved.append(context.labels.compact(node.target(*arguments, **named)))  # type: ignore[operator]
    # a shape may be kept in an attribute: (64, 1, 1)
    sizes = tuple(value_of(node).shape)
    along = {varying(layer)[0]: layer.reshape(-1) for layer in moved if len(varying(layer)) == 1}
    context.note_sizes(node, sizes, tuple(along.get(i, fixed(1).expand(n)) for i, n in enumerate(sizes)))
    return moved


def _reduced(context: Context, node: Node, weight: Node) -> list[Tensor]:
    rank = value_of(weight).dim()
    axes = Call(node).get("dim")
    axes = range(rank) if axes in (None, []) else [axes] if isinstance(axes, int) else axes
    gone = {axis % rank for axis in axes}
    kept = []
    for layer in context.layers(weight):
        if gone & set(varying(layer)):
            context.labels.freeze(layer, f"a parameter is reduced over its channels at {where(node)}")
        elif value_of(node).dim() == rank:
            kept.append(layer)
        else:
            kept.append(layer.reshape([n for axis, n in enumerate(layer.shape) if axis not in gone]))
    return kept


def _combined(context: Context, node: Node, weights: list[Node]) -> list[Tensor]:
    rank, place = value_of(node).dim(), where(node)
    operands: list[tuple[list[int], list[Tensor]]] = []
    for source in node.all_input_nodes:
        shape = list(value_of(source).shape)
        pad = [1] * (rank - len(shape))
        layers = context.layers(source) if source in weights else []
        operands.append((pad + shape, [layer.reshape(pad + list(layer.shape)) for layer in layers]))
    result: list[Tensor] = []
    for number, (_, layers) in enumerate(operands):
        for layer in layers:
            axes = varying(layer)
            for extent, others in (*operands[:number], *operands[number + 1 :]):
                if not any(extent[axis] > 1 for axis in axes):
                    continue
                partner = next((other for other in others if varying(other) == axes), None)
                if partner is None:
                    context.labels.freeze(layer, f"combined with something that stays whole at {place}")
                else:
                    context.labels.unify(layer, partner, f"combined with something whole at {place}")
            if not any(varying(known) == axes for known in result):
                result.append(layer)
    return result


def _standardised(context: Context, node: Node) -> list[Tensor]:
    """Weight standardisation by a batch norm in training mode over a filter's weights."""
    call = Call(node)
    source = call["input"]
    if not call["training"] or call["running_mean"] is not None or not context.is_weight(source):
        return _whole(context, node, "normalised by a batch norm")
    layers = context.layers(source)
    for layer in layers:
        if varying(layer) == [1]:
            for name in ("weight", "bias"):
                context.bind(call[name], 0, layer.reshape(-1))
        elif 1 in varying(layer):
            context.labels.freeze(layer, f"standardised over channels at {where(node)}")
        else:
            context.normalised.append(layer.reshape(-1))
    return layers


def _normalised(context: Context, node: Node) -> list[Tensor]:
    """Weight normalisation: a length for each position along one axis, a direction over the others."""
    call = Call(node)
    layers = context.layers(call["v"])
    axis = call["dim"] % value_of(node).dim() if call["dim"] != -1 else -1
    for layer in layers:
        if varying(layer) == [axis]:
            context.bind(call["g"], axis, layer.reshape(-1))
        else:
            context.normalised.append(layer.reshape(-1))
    return layers
