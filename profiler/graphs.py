"""ONNX graphs that time one convolution: copies of it side by side or in a chain, each with a cheap sink.

A runtime that works in a blocked layout transposes whatever leaves the graph. The sink, a 1x1 convolution
to one channel with a stride of the whole map, reads one pixel, so that no copy pays for that. It is a
convolution and not a pooling because ONNX Runtime keeps the blocked layout between convolutions at channel
counts at which a pooling leaves it (20, say). Where even the next convolution needs the plain layout
(8 channels), a network pays for the transpose as well, and so does the row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from latency_model.errors import MeasurementError
from latency_model.shapes import ConvShape
from profiler.reference import noise, reference_inputs

__all__ = ["INPUT", "conv_copies", "input_array", "reference_inputs", "sink_copies"]

OPSET = 17
IR_VERSION = 8  # the one that belongs to opset 17; every ONNX Runtime that we support reads it
INPUT = "x"

_TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
}


def _types(precision: str) -> tuple[int, Any]:
    if precision not in _TYPES:
        raise MeasurementError(
            f"no graph can be built for precision {precision}; known are {', '.join(_TYPES)}"
        )
    return _TYPES[precision]


def input_array(shape: ConvShape, *, seed: int = 0) -> NDArray[Any]:
    """Return random data for the graph input ``INPUT``, never zeros."""
    return noise(_dims(shape), seed, 1).astype(_types(shape.precision)[1])


def _dims(shape: ConvShape) -> tuple[int, int, int, int]:
    return (shape.batch, shape.in_channels, shape.height, shape.width)


@dataclass
class _Graph:
    shape: ConvShape
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, dims: tuple[int, ...], scale: float, offset: int) -> str:
        values = noise(dims, self.seed, offset) * np.float32(scale)
        self.constants.append(numpy_helper.from_array(values.astype(_types(self.shape.precision)[1]), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        if all(constant.name != name for constant in self.constants):
            dtype = _types(self.shape.precision)[1]
            self.constants.append(numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def conv(self, name: str, *, bias: bool, offset: int = 0) -> str:
        shape = self.shape
        fan_in = shape.in_channels // shape.groups * shape.kernel[0] * shape.kernel[1]
        dims = (shape.out_channels, shape.in_channels // shape.groups, *shape.kernel)
        inputs = [INPUT, self.constant(f"w{name}", dims, fan_in**-0.5, 10 + offset)]
        if bias:
            inputs.append(self.constant(f"b{name}", (shape.out_channels,), 0.1, 11 + offset))
        return self.node(
            "Conv",
            inputs,
            f"conv{name}",
            kernel_shape=list(shape.kernel),
            strides=list(shape.stride),
            pads=list(shape.padding),
            dilations=list(shape.dilation),
            group=shape.groups,
        )

    def activate(self, tensor: str, activation: str, copy: int) -> str:
        if activation == "relu":
            return self.node("Relu", [tensor], f"act{copy}")
        if activation == "clip":
            bounds = [self.scalar("low", 0.0), self.scalar("high", 6.0)]
            return self.node("Clip", [tensor, *bounds], f"act{copy}")
        if activation == "hardswish":
            return self.node("HardSwish", [tensor], f"act{copy}")
        if activation == "silu":
            return self.node("Mul", [tensor, self.node("Sigmoid", [tensor], f"gate{copy}")], f"act{copy}")
        return tensor

    def sink(self, tensor: str, index: int, *, pick: str = "pick") -> None:
        strides = [self.shape.out_height, self.shape.out_width]
        if index == 0 or pick != "pick":
            self.constant(pick, (1, self.shape.out_channels, 1, 1), self.shape.out_channels**-0.5, 3 + index)
        name = self.node("Conv", [tensor, pick], f"out{index}", kernel_shape=[1, 1], strides=strides)
        dims = [self.shape.batch, 1, 1, 1]
        self.outputs.append(helper.make_tensor_value_info(name, _types(self.shape.precision)[0], dims))

    def model(self) -> bytes:
        element = _types(self.shape.precision)[0]
        info = helper.make_tensor_value_info(INPUT, element, _dims(self.shape))
        graph = helper.make_graph(self.nodes, "conv", [info], self.outputs, self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="gharial")
        return bytes(model.SerializeToString())


def conv_copies(shape: ConvShape, copies: int, *, seed: int = 0) -> bytes:
    """Return an ONNX model that runs ``shape`` with its epilogue ``copies`` times, own weights each.

    Every copy ends in a sink. Without ``add`` the copies are parallel branches from the input, with ``add`` a
    chain ``y = activation(conv(x) + y)``. The first ``y`` comes out of one more convolution, because an
    addition is fused only when both its sides are in the blocked layout.
    """
    parts = shape.pattern.split("+")
    activation = parts[-1] if parts[-1] not in ("conv", "bias", "add") else ""
    graph = _Graph(shape, seed)
    residual = graph.conv("first", bias=False, offset=-2) if "add" in parts else ""
    for copy in range(copies):
        tensor = graph.conv(str(copy), bias="bias" in parts, offset=2 * copy)
        if residual:
            tensor = graph.node("Add", [tensor, residual], f"sum{copy}")
        tensor = graph.activate(tensor, activation, copy)
        residual = tensor if residual else ""
        graph.sink(tensor, copy)
    return graph.model()


def sink_copies(shape: ConvShape, copies: int, *, seed: int = 0) -> bytes:
    """Return an ONNX model that runs the bare convolution of ``shape`` once, with ``copies`` sinks.

    The weights differ, so that the sinks are not merged into one as a common subexpression. Strides must not: where the
    output is one pixel, those of ``conv_copies`` have none, and a stride makes another kernel of them.
    """
    graph = _Graph(shape, seed)
    tensor = graph.conv("0", bias=False)
    for index in range(copies):
        graph.sink(tensor, index, pick=f"pick{index}")
    return graph.model()
