"""An operator's text attributes as ONNX wants them: typed by the operator's own schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper, shape_inference
from onnx.defs import OpSchema, SchemaError, get_schema

from latency_model.errors import MeasurementError
from latency_model.ops import OpShape

__all__ = ["OpPlan", "output_of", "plan_op"]

_SCALARS = ("min", "max", "constant_value", "ratio", "training_mode")
_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)", "tensor(bfloat16)")


@dataclass(frozen=True)
class OpPlan:
    """How an operator is written as a node.

    ``attributes`` are the node's own. ``constants`` are inputs whose values the configuration gives: by name,
    the array and whether it has the precision of the activations. ``slots`` are the formal inputs in order,
    with "*" for an activation or weight and "" for one that is left out.
    """

    attributes: dict[str, Any]
    constants: dict[str, tuple[NDArray[Any], bool]]
    slots: tuple[str, ...]

    def arrange(self, tensors: Sequence[str], prefix: str) -> list[str]:
        """Return the node's inputs: ``tensors`` in order in the open slots, constants in theirs."""
        rest = list(tensors)
        names = [rest.pop(0) if slot == "*" else slot and prefix + slot for slot in self.slots]
        return names + rest


def plan_op(config: OpShape, version: int) -> OpPlan:
    """Return how ``config`` is written in opset ``version``; ``MeasurementError`` where it cannot be."""
    try:
        schema = get_schema(config.op, version, "")
    except SchemaError as error:
        raise MeasurementError(f"ONNX has no operator {config.op} in opset {version}: {config}") from error
    attributes: dict[str, Any] = {}
    constants: dict[str, tuple[NDArray[Any], bool]] = {}
    inputs = {formal.name: formal for formal in schema.inputs}
    for name, text in config.attributes:
        try:
            if name in schema.attributes:
                attributes[name] = _attribute(schema.attributes[name].type, text)
            elif name in inputs:
                constants[name] = _constant(schema, inputs[name], text)
            else:
                raise MeasurementError(
                    f"the operator {config.op} has no attribute or input {name!r} in opset {version}: {config}"
                )
        except ValueError as error:
            raise MeasurementError(
                f"{name}={text} is not a value of {config.op}'s {name}: {config}"
            ) from error
    tensors = len(config.inputs) + len(config.weights)
    last = max((position for position, name in enumerate(inputs) if name in constants), default=-1)
    slots: list[str] = []
    for position, name in enumerate(inputs):
        if name in constants:
            slots.append(name)
        elif slots.count("*") < tensors:
            slots.append("*")
        elif position < last:
            slots.append("")
    return OpPlan(attributes, constants, tuple(slots))


def _attribute(kind: OpSchema.AttrType, text: str) -> Any:
    if kind == OpSchema.AttrType.INT:
        return int(text)
    if kind == OpSchema.AttrType.FLOAT:
        return float(text)
    if kind == OpSchema.AttrType.INTS:
        return [int(word) for word in text.split(",") if word]
    if kind == OpSchema.AttrType.FLOATS:
        return [float(word) for word in text.split(",") if word]
    if kind == OpSchema.AttrType.STRING:
        return text
    raise ValueError(f"an attribute of kind {kind} cannot be written as text")


def _constant(schema: OpSchema, formal: Any, text: str) -> tuple[NDArray[Any], bool]:
    """Return the values of a constant input and whether they have the type of the activations."""
    allowed = {formal.type_str}
    for constraint in schema.type_constraints:
        if constraint.type_param_str == formal.type_str:
            allowed = set(constraint.allowed_type_strs)
    typed = formal.type_str == schema.inputs[0].type_str
    words = [word for word in text.split(",") if word]
    integers = not typed and "tensor(int64)" in allowed and not allowed & set(_FLOATS)
    values = np.array([int(word) if integers else float(word) for word in words])
    values = values.astype(np.int64 if integers else np.float32)
    return (values[0] if formal.name in _SCALARS else values), typed


def output_of(config: OpShape, plan: OpPlan, version: int, element: int) -> tuple[int, tuple[int, ...]]:
    """Return element type and sizes of the first output; ``MeasurementError`` when ONNX cannot infer them."""
    tensors = [f"t{index}" for index in range(len(config.inputs) + len(config.weights))]
    names = plan.arrange(tensors, "")
    node = helper.make_node(config.op, names, ["y"], **plan.attributes)
    types = {
        name: helper.make_tensor_type_proto(element, dims)
        for name, dims in zip(tensors, (*config.inputs, *config.weights), strict=True)
    }
    data: dict[str, onnx.TensorProto] = {}
    for name, (array, typed) in plan.constants.items():
        data[name] = numpy_helper.from_array(np.asarray(array), name)
        types[name] = helper.make_tensor_type_proto(
            element if typed else data[name].data_type, np.shape(array)
        )
    try:
        found = shape_inference.infer_node_outputs(
            get_schema(config.op, version, ""),
            node,
            types,
            data,
            opset_imports=[helper.make_opsetid("", version)],
            ir_version=8,
        )["y"].tensor_type
        sizes = tuple(dim.dim_value for dim in found.shape.dim)
    except (KeyError, shape_inference.InferenceError) as error:
        raise MeasurementError(f"the sizes do not fit the operator: {config}") from error
    if not found.HasField("shape") or not all(sizes):
        raise MeasurementError(f"ONNX cannot tell the size of the output of {config}")
    return int(found.elem_type), sizes
