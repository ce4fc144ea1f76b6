"""Copies of one convolution as a TensorRT network definition, strongly typed, with inputs of their own.

TensorRT merges convolutions that read one tensor into one, so every copy has an input of its own (and a residual of
its own); the program binds all of them to the same memory. Inputs and outputs are in the builder's favourite format,
in int8 quantised, as in the middle of a network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from latency_model.errors import MeasurementError
from latency_model.shapes import ConvShape
from profiler.gpu.tensorrt_formats import allowed_formats
from profiler.gpu.tensorrt_module import flavour_of
from profiler.graphs import conv_copies, input_array

__all__ = ["Fill", "conv_arrays", "conv_network", "scales"]

# Adds layers to a network and returns what must stay alive until the engine is built.
Fill: TypeAlias = Callable[[Any, Any], object]

_TYPES = {"fp32": "FLOAT", "tf32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "INT8"}
_RANGE = 4.0  # int8 covers this many standard deviations to either side


def conv_arrays(shape: ConvShape, copies: int = 1, *, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return the fp32 data of the copies: x, w0, b0, w1, … as in ``conv_copies``, and the residual r."""
    plain = dataclasses.replace(shape, precision="fp32")
    model = onnx.load_from_string(conv_copies(plain, copies, seed=seed))
    wanted = {f"{kind}{copy}" for kind in "wb" for copy in range(copies)}
    arrays = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.name in wanted
    }
    arrays["x"] = input_array(plain, seed=seed)
    if "add" in shape.pattern.split("+"):
        dims = (shape.batch, shape.out_channels, shape.out_height, shape.out_width)
        arrays["r"] = np.random.default_rng(seed).standard_normal(dims, dtype=np.float32)
    return arrays


def scales(shape: ConvShape) -> dict[str, float]:
    """Return the quantisation scales of an int8 convolution: of x, of the residual r, the weights w, the output y."""
    fan_in = shape.in_channels // shape.groups * math.prod(shape.kernel)
    unit = _RANGE / 127
    return {"x": unit, "r": unit, "w": unit * fan_in**-0.5, "y": unit * 2.0}


def conv_network(trt: Any, shape: ConvShape, copies: int = 1, *, seed: int = 0) -> Fill:
    """Return what fills a network with ``copies`` of ``shape``, each with weights, input and output of its own.

    The inputs are x0, x1, … and r0, r1, …, the outputs y0, y1, …; the layers are named as those of
    ``conv_copies``. Raises ``MeasurementError`` for a precision that TensorRT does not have.
    """
    if shape.precision not in _TYPES:
        raise MeasurementError(
            f"TensorRT has no convolution in {shape.precision}; known are {', '.join(_TYPES)}: {shape}"
        )

    def fill(network: Any, _log: Any) -> object:
        arrays = conv_arrays(shape, copies, seed=seed)
        build = _Network(trt, network, shape)
        for copy in range(copies):
            build.copy(copy, arrays)
        return build.keep

    return fill


class _Network:
    """Adds the copies of one shape to a network."""

    def __init__(self, trt: Any, network: Any, shape: ConvShape) -> None:
        self.trt, self.network, self.shape = trt, network, shape
        self.keep: list[Any] = []  # TensorRT reads the weights where they are, when it builds
        self.int8 = shape.precision == "int8"
        self.type = getattr(trt.DataType, _TYPES[shape.precision])
        # What int8 is dequantised to, and accumulates in.
        self.compute = trt.DataType.FLOAT if self.int8 else self.type
        self.formats = allowed_formats(trt, flavour_of(trt), precision=shape.precision, layout=shape.layout)
        self.scales = scales(shape)

    def copy(self, index: int, arrays: dict[str, NDArray[np.float32]]) -> None:
        shape, parts = self.shape, self.shape.pattern.split("+")
        x = self.input(f"x{index}", (shape.batch, shape.in_channels, shape.height, shape.width))
        y = self.convolution(x, index, arrays)
        if "add" in parts:
            r = self.input(f"r{index}", (shape.batch, shape.out_channels, shape.out_height, shape.out_width))
            y = self.elementwise(y, r, self.trt.ElementWiseOperation.SUM, f"sum{index}")
        if parts[-1] not in ("conv", "bias", "add"):
            y = self.activate(y, parts[-1], index)
        if self.int8:
            y = self.named(self.network.add_quantize(y, self.scale("y"), self.type), f"quant{index}")
        y.name = f"y{index}"
        self.network.mark_output(y)
        y.allowed_formats = self.formats

    def named(self, layer: Any, name: str) -> Any:
        """Name a layer, also in the metadata that survives fusion, and return its output."""
        layer.name, layer.metadata = name, f"[{name}]"
        return layer.get_output(0)

    def weights(self, array: NDArray[np.float32]) -> Any:
        if self.compute == self.trt.DataType.BF16:
            bits = np.ascontiguousarray(array).view(np.uint32)
            # Round to nearest, ties to even.
            stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
            self.keep.append(stored)
            return self.trt.Weights(self.trt.DataType.BF16, stored.ctypes.data, stored.size)
        half = self.compute == self.trt.DataType.HALF
        stored = np.ascontiguousarray(array, dtype=np.float16 if half else np.float32)
        self.keep.append(stored)
        return self.trt.Weights(stored)

    def constant(self, array: NDArray[np.float32]) -> Any:
        return self.network.add_constant(array.shape, self.weights(array)).get_output(0)

    def scale(self, tensor: str) -> Any:
        return self.constant(np.array(self.scales[tensor], dtype=np.float32))

    def input(self, name: str, dims: tuple[int, ...]) -> Any:
        tensor = self.network.add_input(name, self.type, dims)
        tensor.allowed_formats = self.formats
        if not self.int8:
            return tensor
        return self.network.add_dequantize(tensor, self.scale(name[0]), self.compute).get_output(0)

    def convolution(self, x: Any, index: int, arrays: dict[str, NDArray[np.float32]]) -> Any:
        shape, trt = self.shape, self.trt
        kernel = arrays[f"w{index}"]
        bias = self.weights(arrays[f"b{index}"]) if "bias" in shape.pattern.split("+") else trt.Weights()
        # Quantised weights are a second input, so that the builder sees their scales.
        second = self.quantised(kernel) if self.int8 else None
        layer = self.network.add_convolution_nd(
            x, shape.out_channels, shape.kernel, trt.Weights() if self.int8 else self.weights(kernel), bias
        )
        layer.stride_nd, layer.dilation_nd = shape.stride, shape.dilation
        layer.pre_padding, layer.post_padding = shape.padding[:2], shape.padding[2:]
        layer.num_groups = shape.groups
        if second is not None:
            layer.set_input(1, second)
        return self.named(layer, f"conv{index}")

    def quantised(self, kernel: NDArray[np.float32]) -> Any:
        """Return weights that are stored as int8, one scale for each output channel."""
        each = self.constant(np.full(self.shape.out_channels, self.scales["w"], dtype=np.float32))
        quantise = self.network.add_quantize(self.constant(kernel), each, self.type)
        quantise.axis = 0
        dequantise = self.network.add_dequantize(quantise.get_output(0), each, self.compute)
        dequantise.axis = 0
        return dequantise.get_output(0)

    def elementwise(self, left: Any, right: Any, operation: Any, name: str) -> Any:
        return self.named(self.network.add_elementwise(left, right, operation), name)

    def activate(self, x: Any, activation: str, index: int) -> Any:
        kinds, product = self.trt.ActivationType, self.trt.ElementWiseOperation.PROD
        if activation in ("relu", "clip"):
            kind = kinds.RELU if activation == "relu" else kinds.CLIP
            layer = self.network.add_activation(x, kind)
            if activation == "clip":
                layer.alpha, layer.beta = 0.0, 6.0
            return self.named(layer, f"act{index}")
        # x times its sigmoid (silu), or times min(max(x / 6 + 1 / 2, 0), 1) (hardswish)
        gate = self.network.add_activation(x, kinds.SIGMOID if activation == "silu" else kinds.HARD_SIGMOID)
        if activation == "hardswish":
            gate.alpha, gate.beta = 1 / 6, 0.5
        return self.elementwise(x, self.named(gate, f"gate{index}"), product, f"act{index}")
