"""What a runtime rewrites before it fuses anything: names of its own for well-known groups of operators.

- ``x * sigmoid(x)``, the sigmoid read by nothing else, is one operator (SiLU; ONNX Runtime: QuickGelu);
- a product with a constant matrix and the addition of a constant vector after it are one linear layer;
- an average over whole images is a mean; one that divides the image evenly is a plain average pooling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from latency_model.harvest.graph import Graph, Op

__all__ = ["rewritten"]


def rewritten(graph: Graph, *, together: Callable[[Op, Op], bool] | None = None) -> Graph:
    """Return ``graph`` with such groups as one operator each, in the same order.

    ``together`` says whether two operators may become one; without it they may.
    """
    may = together or (lambda *_: True)
    ops: list[Op] = []
    for op in graph.ops:
        if op.kind == "adaptive_avg_pool2d":
            ops.append(_adaptive(op, graph))
        elif (gate := _gate(op, graph)) is not None and may(gate, op):
            ops.remove(gate)
            nodes = gate.nodes + op.nodes
            ops.append(dataclasses.replace(op, kind="silu", inputs=gate.inputs, nodes=nodes))
        elif (product := _product(op, graph, ops)) is not None and may(product, op):
            ops.remove(product)
            nodes, weights = product.nodes + op.nodes, (*product.weights, *op.weights)
            ops.append(dataclasses.replace(product, outputs=op.outputs, weights=weights, nodes=nodes))
        else:
            ops.append(op)
    return dataclasses.replace(graph, ops=tuple(ops))


def _adaptive(op: Op, graph: Graph) -> Op:
    size, out = graph.sizes.get(op.inputs[0], ())[2:], op.dims[2:]
    if out == (1, 1):
        return dataclasses.replace(op, kind="mean", attributes={"axes": "2,3"})
    if len(out) != 2 or len(size) != 2 or size[0] % out[0] or size[1] % out[1]:
        return op
    ratio = f"{size[0] // out[0]},{size[1] // out[1]}"
    pool = {"kernel_shape": ratio, "strides": ratio, "pads": "0,0,0,0"}
    return dataclasses.replace(op, kind="avg_pool2d", attributes=pool)


def _gate(op: Op, graph: Graph) -> Op | None:
    """Return the sigmoid of ``x * sigmoid(x)`` when ``op`` is that product."""
    if op.kind != "mul" or len(op.inputs) != 2:
        return None
    for gate, other in (op.inputs, op.inputs[::-1]):
        producer = graph.producer.get(gate)
        if producer is not None and producer.kind == "sigmoid" and producer.inputs == (other,):
            return producer if graph.uses[gate] == 1 else None
    return None


def _product(op: Op, graph: Graph, before: list[Op]) -> Op | None:
    """Return the linear layer without a bias to which ``op`` adds one."""
    if op.kind != "add" or len(op.inputs) != 1 or len(op.weights) != 1 or len(op.weights[0]) != 1:
        return None
    producer = graph.producer.get(op.inputs[0])
    if producer is None or producer.kind != "linear" or len(producer.weights) != 1 or producer not in before:
        return None
    fits = graph.uses[op.inputs[0]] == 1 and op.weights[0][0] == producer.weights[0][0]
    return producer if fits else None
