"""Which layers of an engine execute which operators of a graph, and what a convolution's layer takes up.

A layer names the nodes that it comes from. One node may be named by several layers: a kernel that pads the input
of a convolution names the convolution too, a linear layer may be a product and an addition. So an operator's
*homes* are the layers that name it and compute; only where there are none, those that move data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latency_model.errors import ModelError
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.harvest.graph import RESHAPES, Graph, Op
from latency_model.harvest.rewrite import rewritten

__all__ = ["Epilogue", "Matched", "before_reshapes", "components", "epilogue", "in_place", "match"]

_ACTIVATIONS = ("relu", "clip", "hardswish", "silu")
# What a generated kernel calls a convolution: a correlation, or a product where the kernel is 1x1.
_PRODUCTS = ("Corr", "Fc", "Gemm", "Conv")


@dataclass(frozen=True)
class Matched:
    """A graph with its operators' homes: ``homes`` has positions of layers by the operator's first output.

    ``graph`` has operators joined as TensorRT ran them: SiLU is one operator where one layer has both halves.
    """

    graph: Graph
    layers: tuple[EngineLayer, ...]
    homes: Mapping[str, tuple[int, ...]]

    def of(self, op: Op) -> tuple[int, ...]:
        """The homes of an operator; none when no layer names it."""
        return self.homes.get(op.outputs[0], ())

    def own_layer(self, conv: Op) -> int | None:
        """The layer that multiplies: among a convolution's homes the one that says so, else the first."""
        homes = self.of(conv)
        return min(homes, key=lambda home: (_rank(self.layers[home]), home), default=None)

    def inside(self, layer: int) -> tuple[Op, ...]:
        """The operators that this layer alone executes."""
        return tuple(op for op in self.graph.ops if self.of(op) == (layer,))


@dataclass(frozen=True, slots=True)
class Epilogue:
    """What follows a convolution in its own layer: the ``pattern`` of a table, and what no pattern has."""

    pattern: str
    taken: tuple[Op, ...]


def match(graph: Graph, layers: Sequence[EngineLayer]) -> Matched:
    """Return where each operator of ``graph`` is executed.

    Raises ``ModelError`` when two nodes have one name, so that a layer's names do not say which is meant.
    """
    names = Counter(node for op in graph.ops for node in op.nodes)
    if twice := [name for name, count in names.items() if count > 1]:
        raise ModelError(
            f"{len(twice)} nodes of the ONNX file share their name with another, as {twice[0]!r}, so the layers of "
            "an engine do not say which they execute; give the nodes names of their own and build again"
        )
    naming: dict[str, list[int]] = {}
    for position, layer in enumerate(layers):
        for name in layer.operators:
            naming.setdefault(name, []).append(position)

    def homes(nodes: Iterable[str]) -> tuple[int, ...]:
        found = sorted({position for node in nodes for position in naming.get(node, ())})
        return tuple(p for p in found if not layers[p].moves_data) or tuple(found)

    def together(first: Op, second: Op) -> bool:
        return homes(first.nodes) == homes(second.nodes)

    joined = rewritten(graph, together=together)
    return Matched(joined, tuple(layers), {op.outputs[0]: homes(op.nodes) for op in joined.ops})


def _rank(layer: EngineLayer) -> int:
    kind = layer.kind.lower()
    if any(word in kind for word in ("conv", "correlation", "gemm")):
        return 0
    return 1 if any(word in layer.generated for word in _PRODUCTS) else 2


def epilogue(matched: Matched, conv: Op) -> Epilogue:
    """Return what the layer that multiplies for ``conv`` does with the result.

    The operators are followed from the convolution: a batch norm, a constant or a bias of its own, then an
    addition of the same size, then an activation. A bias has no operator: where several layers execute the
    convolution, another one is taken to add it; a kernel that adds it and does not say so is not seen. Without a
    home the pattern is that of the file.
    """
    assert conv.conv is not None
    layer = matched.own_layer(conv)
    if layer is None:
        return Epilogue(conv.conv.pattern, ())
    graph, inside = matched.graph, {op.outputs[0] for op in matched.inside(layer)}
    bias = conv.conv.pattern == "conv+bias" and len(matched.of(conv)) == 1
    add, activation, value, taken = False, "", conv.outputs[0], list[Op]()
    while not activation:
        after = {op.outputs[0]: op for op in graph.readers.get(value, ()) if op.outputs[0] in inside}
        op = next(iter(after.values()), None)
        if len(after) != 1 or op is None:
            break
        if not add and _adds_bias(op, conv, bias=bias):
            bias = True
        elif op.kind == "add" and not add and _same_sizes(op, graph):
            add = True
        elif op.kind in _ACTIVATIONS:
            activation = op.kind
        else:
            break
        taken.append(op)
        value = op.outputs[0]
    parts = ("conv", "bias" if bias else "", "add" if add else "", activation)
    return Epilogue("+".join(filter(None, parts)), tuple(taken))


def _adds_bias(op: Op, conv: Op, *, bias: bool) -> bool:
    """Whether ``op`` becomes a bias: a batch norm, or one constant for each channel where there is none yet."""
    assert conv.conv is not None
    if op.kind != "add" or len(op.inputs) != 1 or len(op.weights) != 1:
        return op.kind == "batch_norm"
    return not bias and [size for size in op.weights[0] if size != 1] == [conv.conv.out_channels]


def _same_sizes(op: Op, graph: Graph) -> bool:
    return len(op.inputs) == 2 and all(graph.sizes.get(name, ()) == op.dims for name in op.inputs)


def components(matched: Matched, ops: Iterable[Op]) -> list[tuple[tuple[Op, ...], tuple[int, ...]]]:
    """Return the groups of ``ops`` that share layers, directly or through others, each with its layers.

    The groups are in the order of their first layer, their operators in that of the graph. Reshapes, which move
    nothing, are left out, and so are operators without a home and layers that multiply for a convolution.
    """
    busy = {matched.own_layer(op) for op in matched.graph.ops if op.conv is not None}
    groups: list[tuple[list[Op], set[int]]] = []
    for op in ops:
        homes = {home for home in matched.of(op) if home not in busy}
        if op.kind in RESHAPES or not homes:
            continue
        joined: tuple[list[Op], set[int]] = ([op], homes)
        for group in [group for group in groups if group[1] & homes]:
            groups.remove(group)
            joined = ([*group[0], *joined[0]], group[1] | joined[1])
        groups.append(joined)
    order = {op.outputs[0]: place for place, op in enumerate(matched.graph.ops)}
    made = [
        (tuple(sorted(found, key=lambda op: order[op.outputs[0]])), tuple(sorted(homes)))
        for found, homes in groups
    ]
    return sorted(made, key=lambda group: group[1][0])


def in_place(matched: Matched, concat: Op) -> bool:
    """Whether the operands of a concatenation are written where its result lies, so that it costs nothing.

    That is so when several layers write one tensor, in parts of the operands' sizes, and each of them either moves
    data or executes what an operand is computed by.
    """
    graph = matched.graph
    wanted = Counter(graph.sizes.get(name, ()) for name in concat.inputs)
    operands = {before_reshapes(graph, name) for name in concat.inputs}
    writers: dict[str, list[tuple[int, tuple[int, ...]]]] = {}
    for place, layer in enumerate(matched.layers):
        for tensor in layer.outputs:
            writers.setdefault(tensor.name, []).append((place, tensor.dims))
    executes: dict[int, set[str]] = {}
    for op in graph.ops:
        for home in matched.of(op):
            executes.setdefault(home, set()).update(op.outputs)
    return any(
        Counter(dims for _, dims in parts) == wanted
        and all(matched.layers[p].moves_data or executes.get(p, set()) & operands for p, _ in parts)
        for parts in writers.values()
        if len(parts) > 1
    )


def before_reshapes(graph: Graph, value: str) -> str:
    """Return what ``value`` was called before operators that only describe it anew."""
    while (op := graph.producer.get(value)) is not None and op.kind in RESHAPES and op.inputs:
        value = op.inputs[0]
    return value
