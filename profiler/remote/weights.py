"""Weights for an ONNX model that came without: a latency depends on their sizes and types, not on their values."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from latency_model.errors import ModelError

__all__ = ["with_weights"]

_FILLED = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.DOUBLE: np.float64,
}
_MOST = 1 << 29  # numbers in a model


def with_weights(model: bytes, *, seed: int = 0) -> bytes:
    """Return ``model`` with random numbers from ``seed`` in every constant that has a size and no values.

    Of matrices and kernels they have the variance that keeps activations in range: neither denormal numbers nor
    infinities, which some processors compute more slowly. Vectors get numbers from 0.5 to 1.5, so that none is a
    negative variance. A model that has all its values is returned as it is. Raises ``ModelError`` for a type that
    cannot be filled, or too many numbers.
    """
    opened = onnx.load_model_from_string(model)
    rng, total = np.random.default_rng(seed), 0
    for tensor in _constants(opened.graph):
        size = math.prod(tensor.dims)
        if not size or _has_values(tensor):
            continue
        kind = _FILLED.get(tensor.data_type)
        total += size
        if kind is None or total > _MOST:
            name = onnx.TensorProto.DataType.Name(tensor.data_type)
            raise ModelError(
                f"the constant {tensor.name or 'without a name'} has {size} values of type {name}, which the model "
                "came without and which cannot be made up; send the model in float or float16"
            )
        tensor.raw_data = numpy_helper.from_array(_values(rng, tuple(tensor.dims)).astype(kind)).raw_data
    return bytes(opened.SerializeToString()) if total else model


def _values(rng: np.random.Generator, dims: tuple[int, ...]) -> np.ndarray:
    if len(dims) < 2:
        return rng.uniform(0.5, 1.5, dims).astype(np.float32)
    fan_in = max(1, math.prod(dims[1:]))
    return (rng.standard_normal(dims, dtype=np.float32) / np.float32(math.sqrt(fan_in))).astype(np.float32)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _constants(attribute.g)


def _has_values(tensor: onnx.TensorProto) -> bool:
    return bool(
        tensor.raw_data
        or tensor.float_data
        or tensor.int32_data
        or tensor.int64_data
        or tensor.double_data
        or tensor.uint64_data
        or tensor.string_data
    )
