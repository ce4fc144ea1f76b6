"""Read the operators of an ONNX file, with the sizes that shape inference finds."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, shape_inference

from latency_model.errors import ModelError
from latency_model.harvest.graph import Graph, Op, unique
from latency_model.shapes import ConvShape

__all__ = ["read_onnx"]

# In inference these hand on their input as it is.
_NOTHING = frozenset({"Identity", "Dropout"})
_KINDS = {
    "BatchNormalization": "batch_norm",
    "MaxPool": "max_pool2d",
    "AveragePool": "avg_pool2d",
    "GlobalAveragePool": "adaptive_avg_pool2d",
    "Gemm": "linear",
    "MatMul": "linear",
    "ReduceMean": "mean",
    "Concat": "cat",
    "HardSwish": "hardswish",
    "LeakyRelu": "leaky_relu",
    "ConvTranspose": "conv_transpose",
    "HardSigmoid": "hardsigmoid",
    "LogSoftmax": "log_softmax",
}


def read_onnx(path: Path, *, batch: int) -> Graph:
    """Return the operators of the ONNX file ``path``, its batch set to ``batch``.

    Raises ``ModelError`` for a file that is damaged, or that has a convolution whose size cannot be inferred.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        _set_batch(model, batch)
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception as error:  # protobuf and onnx raise their own types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as ONNX ({reason}); export it again") from error
    return _Reader(graph, path).graph()


def _set_batch(model: onnx.ModelProto, batch: int) -> None:
    """Give every input the batch, and forget the sizes inside: they are inferred again."""
    weights = {constant.name for constant in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].ClearField("dim_value")


class _Reader:
    def __init__(self, graph: onnx.GraphProto, path: Path) -> None:
        self.source, self.path = graph, path
        self.dims: dict[str, tuple[int, ...]] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.dims[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        self.constants = {entry.name for entry in graph.initializer}
        self.dims |= {entry.name: tuple(entry.dims) for entry in graph.initializer}
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
        return Graph(tuple(self.ops), inputs, outputs)

    def _node(self, node: onnx.NodeProto) -> None:
        inputs = tuple(self.values[name] for name in node.input if name in self.values)
        if not inputs:  # constants, and what is computed from constants alone
            self.constants.update(node.output)
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.dims[node.output[0]] = tuple(node.attribute[0].t.dims)
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
        self.ops.append(Op(kind, inputs, tuple(filter(None, node.output)), dims, site, conv))

    def _shape(self, node: onnx.NodeProto, weight: tuple[int, ...]) -> ConvShape:
        data = self.dims.get(node.input[0], ())
        where = f"{self.path}, convolution {node.name or node.output[0]}"
        if len(data) != 4 or min(data) < 1:
            raise ModelError(
                f"{where}: the size of its input is not known; export with only the batch dynamic"
            )
        given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        stride = tuple(given.get("strides", (1, 1)))
        dilation = tuple(given.get("dilations", (1, 1)))
        mode = given.get("auto_pad", b"NOTSET").decode()
        if mode in ("SAME_UPPER", "SAME_LOWER"):
            pads = _same(data[2:], weight[2:], stride, dilation, upper=mode == "SAME_UPPER")
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
        )


def _same(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    upper: bool,
) -> tuple[int, ...]:
    begin, end = [], []
    for axis in (0, 1):
        steps = -(-size[axis] // stride[axis]) - 1
        total = max(0, steps * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1 - size[axis])
        less, more = total // 2, total - total // 2
        begin.append(less if upper else more)
        end.append(more if upper else less)
    return (*begin, *end)


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
