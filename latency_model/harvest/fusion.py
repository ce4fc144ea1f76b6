"""Which operators ONNX Runtime executes together with a convolution, and which remain.

The rules of ONNX Runtime's CPU graph optimiser at its highest level, where convolutions run in a blocked
layout. They were read off optimised graphs (``SessionOptions.optimized_model_filepath``, ORT 1.32, AVX2 and
AVX-512); ``tests/latency_model/test_harvest_ort.py`` compares them again with the installed version:

- a batch norm that alone reads a convolution is folded into its weights and bias;
- ``relu``, or a clip with constant bounds (ReLU6), that alone reads it is fused; so is hardswish, unless the
  convolution is not blocked or the network ends there;
- an addition of two blocked tensors of one size is fused into the first of its operands that is a convolution
  which nothing else reads and that has no addition or activation yet; a ``relu`` or hardswish that alone
  reads the sum is fused too, a clip is not. Below the blocked layout's alignment (an input channel count
  above 16 that 4 does not divide) it may be the other operand that takes the addition, and the cost with it;
- a grouped convolution that is not depthwise stays in the plain layout. It takes an addition of its size
  whatever the other operand is, and a relu or a clip after it;
- SiLU, GELU and others remain operators of their own. Sigmoid, tanh, leaky ReLU and hardsigmoid would be
  fused, but tables have no such pattern: they are counted among the others, and so is a batch norm that
  follows no convolution, which runs as a 1x1 depthwise one.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable

from latency_model.harvest.graph import RESHAPES, Graph, Op
from latency_model.network import Channels, Site
from latency_model.shapes import ConvShape

__all__ = ["fuse"]

# Operators that read and write the blocked layout when their inputs have it.
_BLOCKED = frozenset(
    {"relu", "add", "cat", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "batch_norm", "sigmoid"}
)


class _Fused:
    """A convolution and the epilogue that it has taken up so far; ``value`` is what it writes."""

    def __init__(self, op: Op) -> None:
        assert op.conv is not None
        self.op, self.conv, self.value = op, op.conv, op.outputs[0]
        self.bias = op.conv.pattern == "conv+bias"
        self.add, self.activation = False, ""

    @property
    def shape(self) -> ConvShape:
        parts = ("conv", "bias" if self.bias else "", "add" if self.add else "", self.activation)
        return dataclasses.replace(self.conv, pattern="+".join(filter(None, parts)))


def fuse(
    graph: Graph, *, precision: str | None, layout: str
) -> tuple[tuple[Site, ...], dict[str, int], dict[str, int]]:
    """Return the convolution sites of ``graph``, a channel group per axis, and the other operators.

    Without a ``precision`` each convolution keeps its own.
    """
    writers: dict[str, _Fused] = {}  # by the value that the fused operator writes at present
    blocked: set[str] = set()
    fused: list[_Fused] = []
    others: Counter[str] = Counter()
    for op in graph.ops:
        if op.conv is not None:
            entry = _Fused(op)
            fused.append(entry)
            writers[entry.value] = entry
            if op.conv.groups == 1 or op.conv.depthwise:
                blocked.add(entry.value)
            continue
        taker = _taker(op, graph, writers, blocked)
        if taker is not None:
            writers.pop(taker.value)
            taker.value = op.outputs[0]
            writers[taker.value] = taker
        elif op.kind not in RESHAPES:
            others[op.kind] += 1
        if (op.kind in _BLOCKED or taker is not None) and all(name in blocked for name in op.inputs):
            blocked.add(op.outputs[0])
    sites, groups = _sites(fused, graph, precision=precision, layout=layout)
    return sites, groups, dict(others)


def _taker(op: Op, graph: Graph, writers: dict[str, _Fused], blocked: set[str]) -> _Fused | None:
    """Return the convolution that takes up ``op``, its fields changed accordingly, or None."""
    if op.kind == "add":
        return _add_taker(op, graph, writers, blocked)
    if op.kind not in ("batch_norm", "relu", "clip", "hardswish") or len(op.inputs) != 1:
        return None
    entry = writers.get(op.inputs[0])
    if entry is None or graph.uses[op.inputs[0]] != 1 or entry.activation:
        return None
    if op.kind == "batch_norm":
        if entry.add:
            return None
        entry.bias = True
        return entry
    if op.kind == "clip" and entry.add and entry.value in blocked:
        return None
    if op.kind == "hardswish" and (entry.value not in blocked or op.outputs[0] in graph.outputs):
        return None
    entry.activation = op.kind
    return entry


def _add_taker(op: Op, graph: Graph, writers: dict[str, _Fused], blocked: set[str]) -> _Fused | None:
    if len(op.inputs) != 2 or op.inputs[0] == op.inputs[1]:
        return None
    if not all(op.dims == _dims(name, graph) for name in op.inputs):
        return None  # one side is broadcast
    mixed = not all(name in blocked for name in op.inputs)
    for name in op.inputs:
        entry = None if mixed and name in blocked else writers.get(name)
        if entry is not None and graph.uses[name] == 1 and not entry.add and not entry.activation:
            entry.add = True
            return entry
    return None


def _dims(name: str, graph: Graph) -> tuple[int, ...]:
    producer = graph.producer.get(name)
    return producer.dims if producer is not None else ()


def _sites(
    fused: Iterable[_Fused], graph: Graph, *, precision: str | None, layout: str
) -> tuple[tuple[Site, ...], dict[str, int]]:
    sites, groups = [], {}
    for entry in fused:
        name = entry.op.site
        shape = entry.shape
        shape = dataclasses.replace(shape, precision=precision or shape.precision, layout=layout)
        if entry.op.inputs[0] in graph.inputs:
            inputs = Channels(shape.in_channels)
        elif shape.depthwise:
            inputs = Channels(terms=((name, 1),))
            groups[name] = shape.in_channels
        else:
            inputs = Channels(terms=((f"{name}.in", 1),))
            groups[f"{name}.in"] = shape.in_channels
        if shape.depthwise and inputs.terms:
            outputs = Channels(terms=((name, shape.out_channels // shape.in_channels),))
        elif shape.depthwise:  # a depthwise convolution of the input image
            outputs = Channels(shape.out_channels)
        else:
            outputs = Channels(terms=((f"{name}.out", 1),))
            groups[f"{name}.out"] = shape.out_channels
        sites.append(Site(name, shape, inputs, outputs))
    return tuple(sites), groups
