"""Strongly typed ONNX graphs of many configurations, for runtimes that time a whole graph kernel by kernel.

Every tensor has the type of its configuration, so a runtime needs no precision flags: fp32 (tf32 has the same
graph; a runtime option allows the shorter arithmetic), fp16, bf16, and int8 as QuantizeLinear and
DequantizeLinear around each operator. bf16 convolutions exist since opset 22 (IR version 10); everything else
is opset 17 (IR version 8), which older runtimes read too.

**Markers.** ONNX Runtime keeps neither the order of independent nodes nor the place of a node that nothing
depends on: it walks depth first from the outputs, in an order that its optimisers change. A small marker
between two convolutions therefore ends up anywhere. Here the marker *is* the producer of the configuration's
first input, a ``Neg`` on the whole tensor, exact in every type: the convolution waits for it and depth first
keeps it with its convolution. Only the order of the configurations remains open; node names say which is
which. As in a network, the input comes fresh from the kernel before, and the weights do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from latency_model.errors import MeasurementError
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape
from profiler.reference import (
    INPUT_SCALE,
    OUTPUT_SCALE,
    Floats,
    bf16_bits,
    quantised_bias,
    quantised_weights,
    raw_inputs,
    reference_inputs,
)
from profiler.typed_ops import output_of, plan_op

__all__ = ["MARKER_OP", "Packed", "config_of_node", "element_type", "opset", "packed"]

MARKER_OP = "Neg"

_ELEMENTS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_NODE = re.compile(r"config(\d+)/")
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


@dataclass(frozen=True)
class Packed:
    """A graph of several configurations and what to give it.

    ``feeds`` are the graph inputs as fp32, to be converted to ``elements``, the ONNX element type of each
    graph input and output. ``outputs`` has the output names of each configuration, one for each copy, and
    ``sizes`` the sizes of each output. With ``channels_last`` the four-dimensional inputs and outputs are in NHWC.
    """

    model: bytes
    configs: tuple[Config, ...]
    feeds: Mapping[str, Floats]
    elements: Mapping[str, int]
    outputs: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, tuple[int, ...]]
    channels_last: bool = False

    def as_nchw(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an output as the configuration's operator defines it."""
        return array.transpose(_TO_NCHW) if self.channels_last and array.ndim == 4 else array


def config_of_node(name: str) -> int | None:
    """Return which configuration of the graph a node, also a fused one, belongs to; None if it does not say."""
    found = _NODE.search(name)
    return int(found.group(1)) if found else None


def opset(precision: str) -> tuple[int, int]:
    """Return the opset and IR version of graphs in ``precision``."""
    return (22, 10) if precision == "bf16" else (17, 8)


def element_type(precision: str) -> int:
    """Return the ONNX element type of activations in ``precision``; those of int8 graphs are fp32 outside."""
    return _ELEMENTS.get(precision, TensorProto.FLOAT)


def packed(
    configs: Sequence[Config],
    *,
    copies: int = 1,
    markers: bool = True,
    channels_last: bool = False,
    quantised_bias: bool = True,
    own_inputs: bool = False,
    seed: int = 0,
) -> Packed:
    """Return one ONNX graph that runs each of ``configs``, independent of each other, inputs and outputs apart.

    With ``copies`` each runs that many times, every copy with weights and outputs of its own and, with
    ``own_inputs``, inputs of its own: a runtime that merges convolutions of one input needs that. ``markers``
    puts a marker before each configuration (see above), for one copy only. ``channels_last`` takes and gives
    four-dimensional tensors in NHWC, through transposes that a runtime working in NHWC cancels against its
    own. ``quantised_bias=False`` leaves the bias of int8 convolutions in fp32, as TensorRT wants it. Values
    are those of ``reference_inputs``. Raises ``MeasurementError`` for what ONNX cannot say.
    """
    if markers and copies > 1:
        raise MeasurementError("copies of a configuration are not kept together, so they cannot be marked")
    if len({opset(config.precision) for config in configs}) != 1:
        raise MeasurementError(
            "bf16 and other precisions need different opsets, so they need graphs of their own"
        )
    build = _Build(configs, markers, channels_last, quantised_bias, seed)
    for index, config in enumerate(configs):
        build.outputs.append(
            tuple(
                build.add(index, config, copy, f"config{index}/{copy if own_inputs else 0}/")
                for copy in range(copies)
            )
        )
    return build.finish()


@dataclass
class _Build:
    configs: Sequence[Config]
    markers: bool
    channels_last: bool
    int_bias: bool
    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    entries: list[onnx.ValueInfoProto] = field(default_factory=list)
    feeds: dict[str, Floats] = field(default_factory=dict)
    read: dict[str, str] = field(default_factory=dict)
    outputs: list[tuple[str, ...]] = field(default_factory=list)
    elements: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def node(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def floats(self, name: str, values: Floats, precision: str) -> str:
        if precision == "bf16":
            data = bf16_bits(values).tobytes()
            dims = values.shape
            self.constants[name] = helper.make_tensor(name, TensorProto.BFLOAT16, dims, data, raw=True)
            return name
        return self.constant(name, values.astype(np.float16) if precision == "fp16" else values)

    def quantise(self, tensor: str, prefix: str, scale: float) -> str:
        constants = (
            self.constant(f"scale{scale}", np.array(scale, np.float32)),
            self.constant("zero", np.zeros((), np.int8)),
        )
        steps = self.node("QuantizeLinear", [tensor, *constants], f"{prefix}q")
        return self.node("DequantizeLinear", [steps, *constants], f"{prefix}dq")

    def inputs(self, config: Config, prefix: str) -> list[str]:
        """Return the activations as the operator reads them, after marker, transpose and quantisation."""
        if prefix in self.read:
            return self.read[prefix].split()
        tensors = []
        for position, values in enumerate(reference_inputs(config, seed=self.seed).inputs):
            marked = self.markers and position == 0
            name = f"{prefix}x{position}"
            last = self.channels_last and values.ndim == 4
            data = values.transpose(_TO_NHWC) if last else values
            self.feeds[name] = np.ascontiguousarray(-data if marked else data)
            self.elements[name] = element_type(config.precision)
            self.entries.append(helper.make_tensor_value_info(name, self.elements[name], data.shape))
            tensor = self.node(MARKER_OP, [name], f"{prefix}mark") if marked else name
            if last:
                tensor = self.node("Transpose", [tensor], f"{prefix}x{position}nchw", perm=_TO_NCHW)
            if config.precision == "int8":
                tensor = self.quantise(tensor, f"{prefix}x{position}", INPUT_SCALE)
            tensors.append(tensor)
        self.read[prefix] = " ".join(tensors)
        return tensors

    def add(self, index: int, config: Config, copy: int, prefix: str) -> str:
        inputs = self.inputs(config, prefix)
        prefix = f"config{index}/{copy}/"
        if isinstance(config, OpShape):
            tensor, element, dims = self.op(config, inputs, prefix, copy)
        else:
            tensor, element = self.conv(config, inputs, prefix, copy), element_type(config.precision)
            dims = (config.batch, config.out_channels, config.out_height, config.out_width)
        if config.precision == "int8":
            tensor = self.quantise(tensor, f"{prefix}y", OUTPUT_SCALE)
        if self.channels_last and len(dims) == 4:
            tensor = self.node("Transpose", [tensor], f"{prefix}nhwc", perm=_TO_NHWC)
            dims = tuple(dims[axis] for axis in _TO_NHWC)
        self.elements[tensor], self.sizes[tensor] = element, dims
        return tensor

    def conv(self, shape: ConvShape, inputs: list[str], prefix: str, copy: int) -> str:
        parts = shape.pattern.split("+")
        if shape.precision == "int8":
            weights = self.int8_weights(shape, prefix, copy)
        else:
            values = reference_inputs(shape, seed=self.seed, copy=copy).weights
            weights = [
                self.floats(f"{prefix}w{position}", array, shape.precision)
                for position, array in enumerate(values)
            ]
        tensor = self.node(
            "Conv",
            [inputs[0], *weights],
            f"{prefix}conv",
            kernel_shape=shape.kernel,
            strides=shape.stride,
            pads=shape.padding,
            dilations=shape.dilation,
            group=shape.groups,
        )
        if "add" in parts:
            tensor = self.node("Add", [tensor, inputs[1]], f"{prefix}sum")
        return self.activate(tensor, parts[-1], shape.precision, prefix)

    def int8_weights(self, shape: ConvShape, prefix: str, copy: int) -> list[str]:
        raw = raw_inputs(shape, seed=self.seed, copy=copy).weights
        steps, scale = quantised_weights(raw[0])
        names = [self.dequantise(f"{prefix}w0", steps, scale)]
        if len(raw) > 1:
            bias, bias_scale = quantised_bias(raw[1], scale)
            name = f"{prefix}w1"
            names.append(
                self.dequantise(name, bias, bias_scale)
                if self.int_bias
                else self.constant(name, bias.astype(np.float32) * bias_scale)
            )
        return names

    def dequantise(self, name: str, steps: NDArray[Any], scale: Floats) -> str:
        constants = [
            self.constant(f"{name}q", steps),
            self.constant(f"{name}scale", np.asarray(scale, np.float32)),
            self.constant(f"{name}zero", np.zeros(np.shape(scale), steps.dtype)),
        ]
        return self.node("DequantizeLinear", constants, name, axis=0)

    def activate(self, tensor: str, activation: str, precision: str, prefix: str) -> str:
        if activation == "relu":
            return self.node("Relu", [tensor], f"{prefix}act")
        if activation == "clip":
            bounds = [
                self.floats(f"clip{bound}{precision}", np.array(bound, np.float32), precision)
                for bound in (0, 6)
            ]
            return self.node("Clip", [tensor, *bounds], f"{prefix}act")
        if activation == "hardswish":
            return self.node("HardSwish", [tensor], f"{prefix}act")
        if activation == "silu":
            return self.node("Mul", [tensor, self.node("Sigmoid", [tensor], f"{prefix}gate")], f"{prefix}act")
        return tensor

    def op(
        self, config: OpShape, inputs: list[str], prefix: str, copy: int
    ) -> tuple[str, int, tuple[int, ...]]:
        version, _ = opset(config.precision)
        plan = plan_op(config, version)
        raw = raw_inputs(config, seed=self.seed, copy=copy).weights
        values = reference_inputs(config, seed=self.seed, copy=copy).weights
        tensors = list(inputs)
        for position, array in enumerate(values):
            name = f"{prefix}w{position}"
            if config.precision == "int8" and array.ndim > 1:
                steps, scale = quantised_weights(raw[position], per_channel=False)
                tensors.append(self.dequantise(name, steps, scale))
            else:
                tensors.append(self.floats(name, array, config.precision))
        for name, (array, typed) in plan.constants.items():
            if typed:
                self.floats(prefix + name, array.astype(np.float32), config.precision)
            else:
                self.constant(prefix + name, array)
        names = plan.arrange(tensors, prefix)
        output = self.node(config.op, names, f"{prefix}op", **plan.attributes)
        return output, *output_of(config, plan, version, element_type(config.precision))

    def finish(self) -> Packed:
        version, ir_version = opset(self.configs[0].precision)
        exits = [
            helper.make_tensor_value_info(name, self.elements[name], self.sizes[name])
            for group in self.outputs
            for name in group
        ]
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, "configurations", self.entries, exits, constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", version)],
            ir_version=ir_version,
            producer_name="gharial",
        )
        return Packed(
            bytes(model.SerializeToString()),
            tuple(self.configs),
            self.feeds,
            self.elements,
            tuple(self.outputs),
            self.sizes,
            self.channels_last,
        )
