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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latency_model.harvest.graph import RESHAPES, Graph, Op
from latency_model.harvest.operators import Rest, op_sites, reorder_sites
from latency_model.network import Channels, OpSite, Site
from latency_model.shapes import ConvShape

__all__ = ["Fused", "fuse", "runs_blocked", "runs_blocked_conv"]

_BLOCK = 16  # channels in a block, with AVX-512; 8 with AVX2, where a few more tensors are blocked
# Operators that read and write the blocked layout when their inputs have it.
_BLOCKED = frozenset(
    {"relu", "add", "mul", "cat", "max_pool2d", "avg_pool2d", "global_avg_pool2d", "batch_norm"}
    | {"sigmoid", "hardsigmoid", "tanh", "leaky_relu", "silu", "hardswish"}
)
# Of these, the ones that need whole blocks of channels.
_WHOLE_BLOCKS = frozenset({"cat", "max_pool2d", "avg_pool2d", "global_avg_pool2d", "batch_norm"})
# Fused into a convolution, a batch norm or a linear layer, though no pattern of a table says so.
_UNNAMED = frozenset({"sigmoid", "hardsigmoid", "tanh", "leaky_relu"})
_FUSED_BY_LINEAR = frozenset({"relu", "sigmoid", "tanh", "leaky_relu"})


@dataclass(frozen=True)
class Fused:
    """What a runtime executes: convolutions with a channel group per axis, operators, and what has no shape."""

    sites: tuple[Site, ...]
    groups: dict[str, int]
    others: dict[str, int]
    ops: tuple[OpSite, ...]
    reorders: tuple[OpSite, ...]


class _Fused:
    """A convolution and the epilogue that it has taken up so far; ``value`` is what it writes."""

    def __init__(self, op: Op) -> None:
        assert op.conv is not None
        self.op, self.conv, self.value = op, op.conv, op.outputs[0]
        self.bias = op.conv.pattern == "conv+bias"
        self.add, self.activation = False, ""
        self.blocked = runs_blocked_conv(op.conv)

    @property
    def shape(self) -> ConvShape:
        activation = "" if self.activation in _UNNAMED else self.activation
        parts = ("conv", "bias" if self.bias else "", "add" if self.add else "", activation)
        return dataclasses.replace(self.conv, pattern="+".join(filter(None, parts)))


def fuse(graph: Graph, *, precision: str | None, layout: str) -> Fused:
    """Return the convolutions of ``graph`` with what they take up, and the operators that remain.

    Without a ``precision`` each convolution keeps its own.
    """
    writers: dict[str, _Fused] = {}  # by the value that the fused operator writes at present
    hosts: dict[str, Rest] = {}  # batch norms and linear layers that may take up an activation
    blocked: set[str] = set()
    fused: list[_Fused] = []
    rest: list[Rest] = []
    unnamed: Counter[str] = Counter()
    plain_reads, blocked_reads = set(graph.outputs), set[str]()
    for op in graph.ops:
        if op.conv is not None:
            entry = _Fused(op)
            fused.append(entry)
            writers[entry.value] = entry
            if entry.blocked:
                blocked.add(entry.value)
            reads = blocked_reads if entry.blocked and not _reads_plain(op.conv) else plain_reads
            reads.add(op.inputs[0])
            continue
        # A runtime that keeps NHWC is none of the CPU's: what no pattern names stays an operator with a size.
        alone = layout == "nhwc" and op.kind in _UNNAMED
        taker = None if alone else _taker(op, graph, writers, blocked)
        inside = all(name in blocked for name in op.inputs) and runs_blocked(op.kind, _sizes(op, graph))
        if taker is not None:
            before = taker.value
            writers.pop(before)
            taker.value = op.outputs[0]
            writers[taker.value] = taker
            unnamed[op.kind] += op.kind in _UNNAMED
            (blocked_reads if taker.blocked else plain_reads).update(n for n in op.inputs if n != before)
            inside = taker.blocked
        elif (host := _host(op, graph, hosts)) is not None:
            host.activation = op.kind
            inside = op.inputs[0] in blocked
        else:
            (blocked_reads if inside else plain_reads).update(op.inputs)
            if op.kind not in RESHAPES:
                rest.append(Rest(op))
                if op.kind in ("linear", "batch_norm"):
                    hosts[op.outputs[0]] = rest[-1]
        if inside:
            blocked.update(op.outputs)
    sites, groups = _sites(fused, graph, precision=precision, layout=layout)
    written = {entry.op.outputs[0]: site.outputs for entry, site in zip(fused, sites, strict=True)}
    ops, others = op_sites(graph, rest, written, groups, precision=precision or "", layout=layout)
    moved = [("ReorderOutput", value) for value in graph.sizes if value in blocked & plain_reads]
    moved += [("ReorderInput", value) for value in graph.sizes if value in blocked_reads - blocked]
    first = sites[0].shape.precision if sites else "fp32"
    reorders = reorder_sites(graph, moved, written, groups, precision=precision or first, layout=layout)
    return Fused(sites, groups, dict(others + unnamed), ops, reorders)


def runs_blocked_conv(conv: ConvShape) -> bool:
    """Whether ONNX Runtime's CPU kernels run ``conv`` in the blocked layout."""
    if conv.groups == 1:
        return conv.in_channels < _BLOCK or conv.in_channels % 4 == 0
    if conv.depthwise:
        return conv.out_channels % 4 == 0
    return not (conv.in_channels // conv.groups % _BLOCK or conv.out_channels // conv.groups % _BLOCK)


def _reads_plain(conv: ConvShape) -> bool:
    """Whether a convolution that writes the blocked layout reads the plain one: an image, say."""
    return conv.groups == 1 and conv.in_channels < _BLOCK


def runs_blocked(kind: str, sizes: Sequence[tuple[int, ...]]) -> bool:
    """Whether an operator runs in the blocked layout on blocked inputs of these ``sizes``."""
    if kind not in _BLOCKED or not all(len(size) == 4 for size in sizes):
        return False
    if kind in ("add", "mul"):
        return len(sizes) == 2 and sizes[0] == sizes[1]
    return kind not in _WHOLE_BLOCKS or all(size[1] % _BLOCK == 0 for size in sizes)


def _sizes(op: Op, graph: Graph) -> list[tuple[int, ...]]:
    return [graph.sizes.get(name, ()) for name in op.inputs]


def _host(op: Op, graph: Graph, hosts: dict[str, Rest]) -> Rest | None:
    """Return the batch norm or linear layer that takes up the activation ``op``."""
    host = hosts.get(op.inputs[0]) if len(op.inputs) == 1 else None
    if host is None or graph.uses[op.inputs[0]] != 1:
        return None
    known = _FUSED_BY_LINEAR if host.op.kind == "linear" else {"relu"}
    return host if op.kind in known and not host.activation else None


def _taker(op: Op, graph: Graph, writers: dict[str, _Fused], blocked: set[str]) -> _Fused | None:
    """Return the convolution that takes up ``op``, its fields changed accordingly, or None."""
    if op.kind == "add":
        return _add_taker(op, graph, writers, blocked)
    if op.kind not in {"batch_norm", "relu", "clip", "hardswish", *_UNNAMED} or len(op.inputs) != 1:
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
