"""Data movement: the same operator, run on the labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

from pruner.graph.context import Call, Context, value_of, where
from pruner.graph.labels import varying
from pruner.graph.rules.registry import couple, equal_parts, rule

__all__ = ["MOVE"]

MOVE = """
view reshape flatten unflatten permute transpose t unsqueeze squeeze expand cat concat concatenate
stack pixel_shuffle pixel_unshuffle flip repeat swapaxes swapdims movedim moveaxis expand_as view_as
reshape_as mT numpy_T _unsafe_view unbind tile repeat_interleave
"""


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
        end = min(start + kept * step, size)
        known = _follow(context, node, labels, axis, [bound for bound in (start, end) if 0 < bound < size])
        if step == 1 and size % kept == start % kept == 0:
            equal_parts(context, labels, axis, kept, where(node))
        elif step != 1 or not known:
            context.labels.freeze(labels, f"cut into unequal parts at {where(node)}")
        labels = labels.narrow(axis, start, end - start)[
            tuple(slice(None, None, step if i == axis else 1) for i in range(rank))
        ]
    context.values[node] = labels


def _follow(context: Context, node: Node, labels: Tensor, axis: int, bounds: list[int]) -> bool:
    """Note the numbers of channels up to each of ``bounds``, and the total; whether attributes hold them."""
    if varying(labels) != [axis]:
        return False
    one, size = labels.reshape(-1), labels.shape[axis]
    context.note_sizes(node, (size,), (one,))
    found = [context.note_sizes(node, (bound,), (one[:bound],)) for bound in bounds]
    return all(found)


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
    known = False
    if varying(labels) == [axis]:
        one = labels.reshape(-1)
        context.note_sizes(node, (sum(sizes),), (one,))
        known = context.note_sizes(node, tuple(sizes), one.split(sizes))
    if len(set(sizes)) == 1:
        equal_parts(context, labels, axis, sizes[0], where(node))
    elif not known:
        context.labels.freeze(labels, f"split into unequal parts at {where(node)}")
    context.values[node] = list(torch.split(labels, sizes, dim=axis))


@rule("channel_shuffle native_channel_shuffle")
def _channel_shuffle(context: Context, node: Node, call: Call) -> None:
    source, groups = call["self"], call["groups"]
    size = value_of(source).shape[1]
    labels = context.along(source, 1)
    couple(context, labels.reshape(groups, size // groups), where(node))
    shuffled = context.labels.roots(labels).reshape(groups, -1).t().reshape(-1)
    context.values[node] = shuffled.reshape(1, -1, *[1] * (value_of(source).dim() - 2))


def _is_view(node: Node) -> bool:
    return any(name in str(node.target) for name in ("view", "reshape", "unflatten"))


@rule(MOVE)
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
        equal_parts(context, labels, axis, 1, where(node))
        labels = context.labels.compact(labels)
    if _is_view(node):
        for axis in varying(labels) if len(varying(labels)) == 1 else ():
            context.note_sizes(node, (labels.shape[axis],), (labels.reshape(-1),))
    context.values[node] = labels
