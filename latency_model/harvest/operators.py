"""The operators that remain beside the convolutions, as rows of a table have them, and their channel groups."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from latency_model.harvest.graph import Graph, Op
from latency_model.network import Axis, Channels, OpSite
from latency_model.ops import OpShape

__all__ = ["Rest", "op_sites", "reorder_sites"]

Sizes = tuple[int, ...]
# The channels of a value: which of its dimensions are counts of channel groups.
Tracked = Mapping[int, Channels]

_NAMES = {
    "relu": "Relu",
    "clip": "Clip",
    "sigmoid": "Sigmoid",
    "hardsigmoid": "HardSigmoid",
    "hardswish": "HardSwish",
    "tanh": "Tanh",
    "leaky_relu": "LeakyRelu",
    "silu": "QuickGelu",
    "gelu": "Gelu",
    "softmax": "Softmax",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "cat": "Concat",
    "split": "Split",
    "transpose": "Transpose",
    "max_pool2d": "MaxPool",
    "avg_pool2d": "AveragePool",
    "global_avg_pool2d": "GlobalAveragePool",
    "mean": "ReduceMean",
    "linear": "Gemm",
    "layer_norm": "LayerNormalization",
    "batch_norm": "BatchNormalization",
    "resize": "Resize",
}
# Without these the work of such an operator is not known.
_NEEDED = {
    "softmax": "axis",
    "cat": "axis",
    "split": "split",
    "transpose": "perm",
    "max_pool2d": "kernel_shape",
    "avg_pool2d": "kernel_shape",
    "mean": "axes",
    "resize": "scales",
}
_WITH_CONSTANTS = frozenset({"add", "sub", "mul", "div"})


@dataclass
class Rest:
    """An operator that no convolution takes up, and the activation that it takes up itself."""

    op: Op
    activation: str = ""


def op_sites(
    graph: Graph,
    rest: Iterable[Rest],
    written: Mapping[str, Channels],
    groups: Mapping[str, int],
    *,
    precision: str,
    layout: str,
) -> tuple[tuple[OpSite, ...], Counter[str]]:
    """Return a site for each operator of ``rest``, and the counts of those that have no shape.

    ``written`` has the channels that convolutions write, by value, in terms of ``groups``.
    """
    tracked = track(graph, written, groups)
    sites, others = [], Counter[str]()
    for entry in rest:
        found = _site(
            entry, graph, tracked, precision=precision or entry.op.precision or "fp32", layout=layout
        )
        if found is None:
            others[entry.op.kind] += 1
        else:
            sites += found
    return tuple(sites), others


def reorder_sites(
    graph: Graph,
    blocked: Iterable[tuple[str, str]],
    written: Mapping[str, Channels],
    groups: Mapping[str, int],
    *,
    precision: str,
    layout: str,
) -> tuple[OpSite, ...]:
    """Return a site for each (operator, value) of ``blocked``: ReorderInput or ReorderOutput."""
    tracked = track(graph, written, groups)
    sites = []
    for kind, value in blocked:
        size = graph.sizes.get(value, ())
        if len(size) == 4 and min(size) > 0:
            shape = OpShape(kind, (size,), (), (), precision, layout)
            axes = tuple(Axis(0, dim, axis) for dim, axis in tracked.get(value, {}).items())
            sites.append(OpSite(f"{kind}:{value}", shape, axes))
    return tuple(sites)


def _site(
    entry: Rest, graph: Graph, tracked: Mapping[str, Tracked], *, precision: str, layout: str
) -> list[OpSite] | None:
    op = entry.op
    inputs = [graph.sizes.get(name, ()) for name in op.inputs]
    if op.kind not in _NAMES or not all(size and min(size) > 0 for size in (*inputs, *op.weights)):
        return None
    if (needed := _NEEDED.get(op.kind)) is not None and not op.attributes.get(needed):
        return None
    attributes = dict(op.attributes)
    weights = op.weights
    axes = [
        Axis(place, dim, axis)
        for place, name in enumerate(op.inputs)
        for dim, axis in tracked.get(name, {}).items()
    ]
    if op.kind == "linear":
        if len(inputs) != 1 or len(weights) not in (1, 2) or len(weights[0]) != 2:
            return None
        axes = _linear_axes(inputs[0], weights, tracked.get(op.inputs[0], {}))
        inputs = [(math.prod(inputs[0][:-1]), inputs[0][-1])]
    elif op.kind == "split":
        parts = attributes["split"].split(",")
        if len(set(parts)) == 1:  # parts of unequal sizes keep them: they do not follow the channels
            attributes = {"axis": attributes["axis"], "num_outputs": str(len(parts))}
        else:
            axes = []
    elif op.kind in _WITH_CONSTANTS and len(inputs) > 1:
        # Both sides have the channels of the larger one, whatever groups the harvest gave them.
        axes = _broadcast_axes(inputs, axes)
    if entry.activation:
        attributes["activation"] = entry.activation
    made = (tuple(inputs), weights, tuple(attributes.items()), precision, layout)
    if op.kind == "hardswish":  # not fused, it is two operators
        double = [Axis(place, axis.dim, axis.channels) for axis in axes for place in (0, 1)]
        return [
            OpSite(op.name, OpShape("HardSigmoid", *made), tuple(axes)),
            OpSite(f"{op.name}.mul", OpShape("Mul", (inputs[0],) * 2, *made[1:]), tuple(double)),
        ]
    return [OpSite(op.name, OpShape(_NAMES[op.kind], *made), tuple(axes))]


def _linear_axes(size: Sizes, weights: tuple[Sizes, ...], tracked: Tracked) -> list[Axis]:
    into = tracked.get(len(size) - 1, Channels(size[-1]))
    out = Channels(weights[0][0])
    axes = [Axis(0, 1, into), Axis(1, 1, into), Axis(1, 0, out, side="out")]
    return axes if len(weights) == 1 else [*axes, Axis(2, 0, out, side="out")]


def _broadcast_axes(inputs: list[Sizes], axes: list[Axis]) -> list[Axis]:
    largest = max(range(len(inputs)), key=lambda place: math.prod(inputs[place]))
    rank = len(inputs[largest])
    found = []
    for axis in axes:
        if axis.place == largest:
            for place, size in enumerate(inputs):
                dim = axis.dim - rank + len(size)
                if dim >= 0 and size[dim] == inputs[largest][axis.dim]:
                    found.append(Axis(place, dim, axis.channels))
    return found


def track(graph: Graph, written: Mapping[str, Channels], groups: Mapping[str, int]) -> dict[str, Tracked]:
    """Return which dimensions of each value are counts of channel groups, of which ``groups`` has the sizes."""
    tracked: dict[str, Tracked] = {}
    for op in graph.ops:
        for output in op.outputs:
            size = graph.sizes.get(output, ())
            if output in written:
                tracked[output] = {1: written[output]}
            elif op.conv is None and op.inputs:
                found = _follow(op, graph, tracked, size)
                # What does not fit the size is not known after all.
                tracked[output] = {
                    dim: axis
                    for dim, axis in found.items()
                    if dim < len(size) and axis.count(groups) == size[dim]
                }
    return tracked


def _follow(op: Op, graph: Graph, tracked: Mapping[str, Tracked], out: Sizes) -> Tracked:
    name = max(op.inputs, key=lambda name: math.prod(graph.sizes.get(name, (0,))))
    before, size = tracked.get(name, {}), graph.sizes.get(name, ())
    if op.kind == "cat" and op.attributes.get("axis"):
        return _joined(op, graph, tracked, int(op.attributes["axis"]))
    if op.kind == "transpose" and op.attributes.get("perm"):
        order = [int(axis) for axis in op.attributes["perm"].split(",")]
        return {to: before[dim] for to, dim in enumerate(order) if dim in before}
    if op.kind == "linear":
        return {dim: axis for dim, axis in before.items() if dim < len(size) - 1}
    if len(size) == len(out):
        return {dim: axis for dim, axis in before.items() if size[dim] == out[dim]}
    return {
        dim: _times(axis, out[dim] // size[dim])
        for dim, axis in before.items()
        if size[: dim + 1] == out[: dim + 1] or _merges(size, out, dim)
    }


def _merges(size: Sizes, out: Sizes, dim: int) -> bool:
    """Whether ``out`` is ``size`` with everything from ``dim`` on as one dimension."""
    return len(out) == dim + 1 and size[:dim] == out[:dim] and math.prod(size[dim:]) == out[dim]


def _times(axis: Channels, times: int) -> Channels:
    return Channels(axis.fixed * times, tuple((group, count * times) for group, count in axis.terms))


def _joined(op: Op, graph: Graph, tracked: Mapping[str, Tracked], axis: int) -> Tracked:
    fixed, terms = 0, dict[str, int]()
    for name in op.inputs:
        size = graph.sizes.get(name, ())
        part = tracked.get(name, {}).get(axis, Channels(size[axis] if len(size) > axis else 0))
        fixed += part.fixed
        for group, times in part.terms:
            terms[group] = terms.get(group, 0) + times
    others = {dim: found for dim, found in tracked.get(op.inputs[0], {}).items() if dim != axis}
    return {**others, axis: Channels(fixed, tuple(terms.items()))}
