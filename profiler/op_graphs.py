"""ONNX graphs that time one operator in the middle of a network: branches with it, and the same without.

A branch is a cheap producer of each tensor that the operator reads, the operator, and a sink that reads one
number of the result. Producers differ between branches, or the runtime would run equal operators once. The
time of the operator is what a branch with it takes more than one without it, the sinks accounted for.

An operator that runs in ONNX Runtime's blocked layout between convolutions stands between convolutions: its
producer is a 1x1 convolution of a one-channel image with a leaky ReLU, so that the operator can be fused into
neither, and its sink a strided 1x1 convolution. Any other operator reads plain tensors: its producer subtracts
a number of its own, its sink takes a slice. The two changes of layout have a producer and a sink of different
kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from latency_model.errors import MeasurementError
from latency_model.harvest.fusion import runs_blocked
from latency_model.ops import OpShape

__all__ = ["Branches", "in_blocks", "op_branches", "op_nodes", "op_output", "sink_branches"]

OPSET, IR_VERSION = 18, 8
_TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "tf32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
}
_KINDS = {
    "Relu": "relu",
    "Add": "add",
    "Mul": "mul",
    "Concat": "cat",
    "MaxPool": "max_pool2d",
    "AveragePool": "avg_pool2d",
    "GlobalAveragePool": "global_avg_pool2d",
    "BatchNormalization": "batch_norm",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "hardsigmoid",
    "Tanh": "tanh",
    "LeakyRelu": "leaky_relu",
    "QuickGelu": "silu",
}
_UNARY = frozenset(
    {"Relu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "LeakyRelu", "Gelu", "Softmax", "Transpose"}
)
_LISTS = frozenset({"kernel_shape", "strides", "pads", "dilations", "perm"})
_NUMBERS = frozenset({"axis", "ceil_mode", "count_include_pad"})
REORDERS = frozenset({"ReorderInput", "ReorderOutput"})
Size = tuple[int, ...]


@dataclass(frozen=True)
class Branches:
    """An ONNX model, what it reads, and how many sinks of each kind (blocked, plain) a branch of it has."""

    model: bytes
    feed: Mapping[str, NDArray[Any]] = field(repr=False)
    sinks: Mapping[bool, int]


def in_blocks(shape: OpShape) -> bool:
    """Whether ONNX Runtime on a CPU runs ``shape`` in its blocked layout when convolutions surround it."""
    kind = _KINDS.get(shape.op, "")
    constant = bool(shape.weights) and shape.op in ("Add", "Mul")
    return bool(kind) and not constant and runs_blocked(kind, shape.inputs)


def op_output(shape: OpShape) -> Size:
    """Return the size of the first output of ``shape``, by shape inference."""
    graph = _Graph(shape, 0)
    names = [graph.given(f"x{place}", size) for place, size in enumerate(shape.inputs)]
    out = op_nodes(graph, names, "0")
    graph.outputs.append(helper.make_tensor_value_info(out, graph.element, None))
    inferred = onnx.shape_inference.infer_shapes(graph.proto(), data_prop=True)
    return tuple(dim.dim_value for dim in inferred.graph.output[0].type.tensor_type.shape.dim)


def op_branches(shape: OpShape, copies: int, *, operator: bool = True, seed: int = 0) -> Branches:
    """Return ``copies`` branches that run ``shape``, or with ``operator=False`` the same ones without it.

    Raises ``MeasurementError`` for an operator that this module has no graph for.
    """
    graph = _Graph(shape, seed)
    if shape.op in REORDERS:
        blocked, after = shape.op == "ReorderOutput", shape.op == "ReorderInput"
        after = after if operator else blocked
    else:
        blocked = after = in_blocks(shape)
    out = op_output(shape) if operator and shape.op not in REORDERS else shape.inputs[0]
    sinks = {True: 0, False: 0}
    for copy in range(copies):
        names = [
            graph.producer(f"{copy}_{place}", size, blocked=blocked)
            for place, size in enumerate(shape.inputs)
        ]
        if operator and shape.op not in REORDERS:
            tensors = [(op_nodes(graph, names, str(copy)), out)]
        else:
            tensors = list(zip(names, shape.inputs, strict=True))
        for name, size in tensors:
            graph.sink(name, size, blocked=after)
        sinks[after] = len(tensors)
    return Branches(graph.bytes(), graph.feed, sinks)


def sink_branches(
    size: Size, copies: int, *, blocked: bool, precision: str = "fp32", seed: int = 0
) -> Branches:
    """Return one producer of a tensor of ``size`` with ``copies`` sinks, none of which can be merged."""
    graph = _Graph(OpShape("Relu", (size,), precision=precision), seed)
    name = graph.producer("0_0", size, blocked=blocked)
    for index in range(copies):
        graph.sink(name, size, blocked=blocked, index=index)
    return Branches(graph.bytes(), graph.feed, {blocked: copies})


class _Graph:
    def __init__(self, shape: OpShape, seed: int) -> None:
        if shape.precision not in _TYPES:
            raise MeasurementError(
                f"no graph can be built for precision {shape.precision}; known are {', '.join(_TYPES)}: {shape}"
            )
        self.shape, self.rng = shape, np.random.default_rng(seed)
        self.element, self.dtype = _TYPES[shape.precision]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: dict[str, onnx.ValueInfoProto] = {}
        self.outputs: list[onnx.ValueInfoProto] = []
        self.feed: dict[str, NDArray[Any]] = {}

    def node(self, kind: str, inputs: list[str], output: str, *more: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output, *more], name=output, **attributes))
        return output

    def random(self, size: Size, scale: float = 1.0) -> NDArray[Any]:
        values = self.rng.standard_normal(size, dtype=np.float32) * np.float32(scale)
        return np.asarray(values, dtype=self.dtype)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def weights(self, copy: str) -> list[str]:
        """Return the constant operands of the operator, own ones for each copy: in a network they are cold."""
        names = []
        for index, size in enumerate(self.shape.weights):
            scale = (size[-1] if len(size) > 1 else 4) ** -0.5
            names.append(self.constant(f"w{copy}_{index}", self.random(size, scale)))
        return names

    def given(self, name: str, size: Size) -> str:
        if name not in self.inputs:
            self.inputs[name] = helper.make_tensor_value_info(name, self.element, size)
            self.feed[name] = self.random(size)
        return name

    def producer(self, name: str, size: Size, *, blocked: bool) -> str:
        if not blocked:
            image = self.given("x" + "x".join(map(str, size)), size)
            return self.node("Sub", [image, self.constant(f"s{name}", self.random((1,)))], f"made{name}")
        image = self.given(f"x{size[0]}x1x{size[2]}x{size[3]}", (size[0], 1, *size[2:]))
        weight = self.constant(f"p{name}", self.random((size[1], 1, 1, 1)))
        raw = self.node("Conv", [image, weight], f"conv{name}", kernel_shape=[1, 1])
        return self.node("LeakyRelu", [raw], f"made{name}", alpha=0.1)

    def sink(self, tensor: str, size: Size, *, blocked: bool, index: int = 0) -> None:
        """Read one number of ``tensor``; sinks of one tensor must differ in ``index``, or they are merged."""
        out = f"out{len(self.outputs)}"
        if blocked:
            pick = self.constant(f"pick{size[1]}", self.random((1, size[1], 1, 1), size[1] ** -0.5))
            strides = [size[2] + index, size[3] + index]
            self.node("Conv", [tensor, pick], out, kernel_shape=[1, 1], strides=strides)
            done: Size = (size[0], 1, 1, 1)
        else:
            if self.shape.op == "Transpose":  # the runtime would slice first, and transpose one number
                flat = self.constant("flat", np.array([-1], dtype=np.int64))
                tensor, size = self.node("Reshape", [tensor, flat], f"flat_{tensor}"), (int(np.prod(size)),)
            rank = len(size)
            first = np.unravel_index(index % int(np.prod(size)), size)
            starts = self.constant("at" + "_".join(map(str, first)), np.array(first, dtype=np.int64))
            ends = self.constant(
                "to" + "_".join(map(str, first)), np.array([place + 1 for place in first], dtype=np.int64)
            )
            axes = self.constant(f"axes{rank}", np.arange(rank, dtype=np.int64))
            self.node("Slice", [tensor, starts, ends, axes], out)
            done = (1,) * rank
        self.outputs.append(helper.make_tensor_value_info(out, self.element, done))

    def proto(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes, "operator", list(self.inputs.values()), self.outputs, list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", 20 if self.shape.op == "Gelu" else OPSET)]
        version = 9 if self.shape.op == "Gelu" else IR_VERSION
        return helper.make_model(graph, opset_imports=opsets, ir_version=version, producer_name="gharial")

    def bytes(self) -> bytes:
        return bytes(self.proto().SerializeToString())


def op_nodes(graph: _Graph, inputs: list[str], copy: str) -> str:
    """Add the nodes of the graph's operator on ``inputs``, and return the name of its first output."""
    shape, out = graph.shape, f"y{copy}"
    attributes = _attributes(shape)
    activation = attributes.pop("activation", "")
    weights = graph.weights(copy) if shape.op != "BatchNormalization" else []
    target = f"raw{copy}" if activation else out
    if shape.op in _UNARY:
        graph.node(shape.op, inputs, target, **attributes)
    elif shape.op == "QuickGelu":
        graph.node("Mul", [*inputs, graph.node("Sigmoid", inputs, f"gate{copy}")], target)
    elif shape.op in ("Add", "Sub", "Mul", "Div", "Concat", "MaxPool", "AveragePool", "GlobalAveragePool"):
        graph.node(shape.op, [*inputs, *weights], target, **attributes)
    elif shape.op == "Clip":
        bounds = [graph.constant(n, np.array(v, dtype=graph.dtype)) for n, v in (("low", 0), ("high", 6))]
        graph.node("Clip", [*inputs, *bounds], target)
    elif shape.op == "Gemm":
        graph.node("Gemm", [*inputs, *weights], target, transB=1)
    elif shape.op == "LayerNormalization":
        size = shape.weights[0] if shape.weights else shape.inputs[0][-1:]
        scale = weights or [graph.constant(f"w{copy}", graph.random(size))]
        graph.node("LayerNormalization", [*inputs, *scale], target, axis=-len(size))
    elif shape.op == "BatchNormalization":
        size = (shape.inputs[0][1],)
        moments = [
            graph.constant(f"n{copy}_{i}", np.abs(graph.random(size)) + graph.dtype(0.5)) for i in range(4)
        ]
        graph.node("BatchNormalization", [*inputs, *moments], target)
    elif shape.op == "ReduceMean":
        axes = np.array([int(a) for a in dict(shape.attributes)["axes"].split(",")], dtype=np.int64)
        graph.node("ReduceMean", [*inputs, graph.constant("mean_axes", axes)], target, keepdims=1)
    elif shape.op == "Split":
        _split(graph, inputs, target, copy)
    elif shape.op == "Resize":
        scales = np.array([float(s) for s in attributes.pop("scales").split(",")], dtype=np.float32)
        if attributes.get("mode") == "nearest":
            attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        graph.node("Resize", [*inputs, "", graph.constant("scales", scales)], target, **attributes)
    else:
        raise MeasurementError(f"there is no graph to time the operator {shape.op} with: {shape}")
    if activation:
        names = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "leaky_relu": "LeakyRelu"}
        graph.node(names[activation], [target], out)
    return out


def _attributes(shape: OpShape) -> dict[str, Any]:
    found: dict[str, Any] = dict(shape.attributes)
    for name, value in found.items():
        if name in _LISTS:
            found[name] = [int(number) for number in value.split(",")]
        elif name in _NUMBERS:
            found[name] = int(value)
    return found


def _split(graph: _Graph, inputs: list[str], target: str, copy: str) -> None:
    given = dict(graph.shape.attributes)
    parts, axis = int(given.get("num_outputs", 0)), int(given["axis"])
    if parts:
        more = [f"more{copy}_{part}" for part in range(1, parts)]
        graph.node("Split", inputs, target, *more, axis=axis, num_outputs=parts)
        return
    sizes = np.array([int(size) for size in given["split"].split(",")], dtype=np.int64)
    more = [f"more{copy}_{part}" for part in range(1, len(sizes))]
    graph.node("Split", [*inputs, graph.constant("parts", sizes)], target, *more, axis=axis)
