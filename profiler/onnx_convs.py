"""Which convolutions an ONNX model runs, each with the epilogue that follows it, and what else it runs.

The short reader that the fake device needs to price a network. Channel groups and the rules of real runtimes
belong to the harvest of ``latency_model``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper, shape_inference

from latency_model.errors import ModelError
from latency_model.shapes import ConvShape

__all__ = ["read_convs"]

_ACTIVATIONS = {"Relu": "relu", "Clip": "clip", "HardSwish": "hardswish"}
_PRECISIONS = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
}


def read_convs(model: bytes) -> tuple[tuple[ConvShape, ...], Mapping[str, int]]:
    """Return the convolutions of ``model`` in node order, and the counts of its other operators by type.

    Batch norms and constant additions become ``bias``; an addition and an activation that alone read the
    convolution's result become part of its pattern. Raises ``ModelError`` without fixed sizes.
    """
    try:
        graph = shape_inference.infer_shapes(onnx.load_model_from_string(model), data_prop=True).graph
    except Exception as error:  # protobuf and onnx raise types of their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"not an ONNX model: {reason}") from error
    sizes, types = {}, {}
    for info in (*graph.input, *graph.value_info, *graph.output):
        tensor = info.type.tensor_type
        sizes[info.name] = tuple(size.dim_value for size in tensor.shape.dim)
        types[info.name] = tensor.elem_type
    constants = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t).shape
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    free = {
        node.output[0]
        for node in graph.node
        if node.op_type in ("Conv", "BatchNormalization") and len(readers.get(node.output[0], ())) == 1
    }
    used: set[int] = set()
    shapes = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        used.add(id(node))
        pattern = _epilogue(node, readers, constants, free, used)
        data, weight = sizes.get(node.input[0], ()), constants.get(node.input[1], ())
        if len(data) != 4 or min(data, default=0) < 1 or len(weight) != 4:
            raise ModelError(
                f"the convolution {node.name or node.output[0]} is not 2-D with fixed sizes and constant "
                "weights; export the network with a fixed batch"
            )
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
        shapes.append(
            ConvShape(
                batch=data[0],
                in_channels=data[1],
                height=data[2],
                width=data[3],
                out_channels=weight[0],
                kernel=(weight[2], weight[3]),
                stride=_two(attributes.get("strides", (1, 1))),
                padding=(top, left, bottom, right),
                dilation=_two(attributes.get("dilations", (1, 1))),
                groups=attributes.get("group", 1),
                pattern=pattern,
                precision=_PRECISIONS.get(types.get(node.input[0], 0), "fp32"),
            )
        )
    others = Counter(n.op_type for n in graph.node if id(n) not in used and n.op_type != "Constant")
    return tuple(shapes), dict(others)


def _two(values: tuple[int, ...]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


def _epilogue(
    node: onnx.NodeProto,
    readers: Mapping[str, list[onnx.NodeProto]],
    constants: Mapping[str, tuple[int, ...]],
    free: set[str],
    used: set[int],
) -> str:
    """Return the pattern that begins at a convolution, and mark the nodes that it takes up as used.

    Of two convolutions that an addition joins (``free`` holds results that could), the one on its first input
    takes it: so does ONNX Runtime 1.32.
    """
    bias, add, activation = len(node.input) > 2 and bool(node.input[2]), False, ""
    while not activation:
        following = readers.get(node.output[0], [])
        if _is_silu(following):
            used.update(map(id, following))
            activation = "silu"
            break
        if len(following) != 1 or id(following[0]) in used:
            break
        tensor, node = node.output[0], following[0]
        if node.op_type == "BatchNormalization" and not add:
            bias = True
        elif node.op_type == "Add" and not add:
            if node.input[0] != tensor and node.input[0] in free:
                break
            constant = any(name in constants for name in node.input)
            bias, add = bias or constant, not constant
        elif node.op_type in _ACTIVATIONS:
            activation = _ACTIVATIONS[node.op_type]
        else:
            break
        used.add(id(node))
    return "+".join(filter(None, ("conv", "bias" if bias else "", "add" if add else "", activation)))


def _is_silu(following: list[onnx.NodeProto]) -> bool:
    kinds = {node.op_type: node for node in following}
    return (
        len(following) == 2
        and set(kinds) == {"Sigmoid", "Mul"}
        and kinds["Sigmoid"].output[0] in kinds["Mul"].input
    )
