"""Read the operators of an ONNX file, with the sizes and types that shape inference finds."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import onnx.numpy_helper
from onnx import helper

from latency_model.errors import ModelError
from latency_model.harvest.graph import RESHAPES, Graph, Op, unique
from latency_model.harvest.onnx_details import details, same_pads
from latency_model.harvest.onnx_file import infer_sizes, open_onnx, set_batch, where_of
from latency_model.shapes import ConvShape

__all__ = ["read_onnx"]

# In inference these hand on their input as it is.
_NOTHING = frozenset({"Identity", "Dropout"})
_KINDS = {
    "BatchNormalization": "batch_norm",
    "MaxPool": "max_pool2d",
    "AveragePool": "avg_pool2d",
    "GlobalAveragePool": "global_avg_pool2d",
    "Gemm": "linear",
    "MatMul": "linear",
    "ReduceMean": "mean",
    "Concat": "cat",
    "HardSwish": "hardswish",
    "LeakyRelu": "leaky_relu",
    "ConvTranspose": "conv_transpose",
    "HardSigmoid": "hardsigmoid",
    "LogSoftmax": "log_softmax",
    "LayerNormalization": "layer_norm",
    "Upsample": "resize",
}


# Tensors of a type, and the precisions that a runtime may compute them in: TF32 reads plain 32-bit floats.
_PRECISIONS = {
    onnx.TensorProto.FLOAT: ("fp32", "tf32"),
    onnx.TensorProto.FLOAT16: ("fp16",),
    onnx.TensorProto.BFLOAT16: ("bf16",),
}


def read_onnx(model: bytes | Path, *, batch: int | None, precision: str | None) -> Graph:
    """Return the operators of an ONNX file, or of its bytes, each convolution in its tensors' precision.

    Raises ``ModelError`` for a file that is damaged, that contradicts ``batch`` or ``precision`` (None asks for
    the file's own), or that has a convolution whose size cannot be inferred.
    """
    opened = open_onnx(model)
    set_batch(opened, batch, where=where_of(model))
    return _Reader(infer_sizes(opened, model), where_of(model), precision).graph()


class _Reader:
    def __init__(self, graph: onnx.GraphProto, where: str, precision: str | None) -> None:
        self.source, self.where, self.precision = graph, where, precision
        self.dims: dict[str, tuple[int, ...]] = {}
        self.types: dict[str, int] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.dims[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            self.types[value.name] = value.type.tensor_type.elem_type
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.constants = {entry.name for entry in graph.initializer}
        for entry in graph.initializer:
            self._constant(entry.name, entry)
        self.values: dict[str, str] = {
            entry.name: entry.name for entry in graph.input if entry.name not in self.constants
        }
        self.names: Counter[str] = Counter()
        self.ops: list[Op] = []

    def graph(self) -> Graph:
        inputs = tuple(self.values)
        for node in self.source.node:
            self._node(node)
        outputs = tuple(self.values[o.name] for o in self.source.output if o.name in self.values)
        sizes = {value: self.dims.get(value, ()) for value in self.values.values()}
        return Graph(tuple(self.ops), inputs, outputs, sizes)

    def _constant(self, name: str, tensor: onnx.TensorProto) -> None:
        self.dims[name], self.types[name] = tuple(tensor.dims), tensor.data_type
        self.tensors[name] = tensor

    def _node(self, node: onnx.NodeProto) -> None:
        inputs = tuple(self.values[name] for name in node.input if name in self.values)
        if not inputs:  # constants, and what is computed from constants alone
            self.constants.update(node.output)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constant(node.output[0], node.attribute[0].t)
            return
        if node.op_type in _NOTHING or (node.op_type == "Concat" and len(node.input) == 1):
            self.values[node.output[0]] = inputs[0]
            return
        self.values.update({name: name for name in node.output if name})
        kind, site, conv = _kind(node), "", None
        dims = self.dims.get(node.output[0], ())
        if node.op_type == "Conv":
            weight = self.dims.get(node.input[1], ())
            if len(weight) == 4:
                site, conv = unique(_site(node), self.names), self._shape(node, weight)
                inputs = inputs[:1]
                dims = dims if dims and min(dims) > 0 else _out_dims(conv)
            else:
                kind = f"conv{max(len(weight) - 2, 0)}d"
        if kind == "clip" and len(node.input) == 3 and not all(n in self.constants for n in node.input[1:]):
            kind = "clamp"
        outputs = tuple(filter(None, node.output))
        nodes = (node.name or f"node_of_{outputs[0]}",)
        if conv is not None or kind in RESHAPES:
            self.ops.append(Op(kind, inputs, outputs, dims, site, conv, nodes=nodes))
            return
        name = unique(
            _site(node) if kind == "linear" and len(node.input) > 1 else node.name or outputs[0], self.names
        )
        weights, attributes = details(node, kind, self)
        precision = _PRECISIONS.get(self.types.get(node.input[0], 0), ("",))[0]
        self.ops.append(
            Op(kind, inputs, outputs, dims, "", None, name, weights, attributes, precision, nodes)
        )

    def numbers(self, name: str) -> list[float] | None:
        """Return the values of a small constant, None where they are not known."""
        tensor = self.tensors.get(name)
        if tensor is None or math.prod(tensor.dims) > 64 or tensor.external_data:
            return None
        return [float(value) for value in onnx.numpy_helper.to_array(tensor).ravel()]

    def _shape(self, node: onnx.NodeProto, weight: tuple[int, ...]) -> ConvShape:
        data = self.dims.get(node.input[0], ())
        where = f"{self.where}, convolution {node.name or node.output[0]}"
        if len(data) != 4 or min(data) < 1:
            raise ModelError(
                f"{where}: the size of its input is not known; export with only the batch dynamic"
            )
        given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        stride = tuple(given.get("strides", (1, 1)))
        dilation = tuple(given.get("dilations", (1, 1)))
        mode = given.get("auto_pad", b"NOTSET").decode()
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            pads = same_pads(data[2:], weight[2:], stride, dilation, upper=mode == "SAME_UPPER")
        else:
            pads = (0, 0, 0, 0) if mode == "VALID" else tuple(given.get("pads", (0, 0, 0, 0)))
        return ConvShape(
            batch=data[0],
            in_channels=data[1],
            height=data[2],
            width=data[3],
            out_channels=weight[0],
            kernel=(weight[2], weight[3]),
            stride=(stride[0], stride[1]),
            padding=(pads[0], pads[1], pads[2], pads[3]),
            dilation=(dilation[0], dilation[1]),
            groups=int(given.get("group", 1)),
            pattern="conv+bias" if len(node.input) > 2 and node.input[2] else "conv",
            precision=self._precision(node, where),
        )

    def _precision(self, node: onnx.NodeProto, where: str) -> str:
        # ONNX gives both inputs of a convolution one type; inference may know only one of them.
        kind = self.types.get(node.input[0]) or self.types.get(node.input[1]) or 0
        known = _PRECISIONS.get(kind)
        if known is None:
            raise ModelError(
                f"{where}: it computes in {onnx.TensorProto.DataType.Name(kind)}; convert the file to float or float16"
            )
        if self.precision not in (None, *known):
            raise ModelError(
                f"{where}: it computes in {known[0]}, not in {self.precision}; convert the file, or take {known[0]}"
            )
        return self.precision or known[0]


def _out_dims(shape: ConvShape) -> tuple[int, ...]:
    return (shape.batch, shape.out_channels, shape.out_height, shape.out_width)


def _kind(node: onnx.NodeProto) -> str:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.op_type).lower()
    return _KINDS.get(node.op_type, snake)


def _site(node: onnx.NodeProto) -> str:
    weight = str(node.input[1])
    if weight.endswith(".weight"):
        return weight.removesuffix(".weight")
    return str(node.name) or weight
