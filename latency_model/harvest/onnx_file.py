"""ONNX files as such: opening them, and the batch that they fix or leave free."""

from __future__ import annotations

from pathlib import Path

import onnx

from latency_model.errors import ModelError

__all__ = ["image_sizes", "infer_sizes", "onnx_at_batch", "open_onnx", "set_batch", "where_of"]


def where_of(model: bytes | Path) -> str:
    """Return how messages call ``model``."""
    return "the ONNX model" if isinstance(model, bytes) else str(model)


def open_onnx(model: bytes | Path, *, weights: bool = False) -> onnx.ModelProto:
    """Return the model of a file or of its bytes; ``weights`` loads those that lie in files beside it too.

    Raises ``ModelError`` for what is missing, damaged or no ONNX model.
    """
    if not isinstance(model, bytes) and not model.is_file():
        raise ModelError(f"no ONNX file at {model}; give the path of an existing file")
    try:
        if isinstance(model, bytes):
            opened = onnx.load_model_from_string(model)
        else:
            opened = onnx.load(model, load_external_data=weights)
    except Exception as error:  # protobuf raises its own types for truncated files
        raise _unreadable(model, error) from error
    if not opened.graph.node:
        raise ModelError(f"{where_of(model)} cannot be read as ONNX (it has no operators); export it again")
    return opened


def infer_sizes(opened: onnx.ModelProto, model: bytes | Path) -> onnx.GraphProto:
    """Return the graph of ``opened`` with the size and the type of every value that can be inferred."""
    try:
        return onnx.shape_inference.infer_shapes(opened, data_prop=True).graph
    except Exception as error:  # onnx raises its own types
        raise _unreadable(model, error) from error


def _unreadable(model: bytes | Path, error: Exception) -> ModelError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(f"{where_of(model)} cannot be read as ONNX ({reason}); export it again")


def image_sizes(opened: onnx.ModelProto) -> tuple[int, ...]:
    """Return the sizes of the first input that is no weight, the batch first; 0 where a size is free."""
    images = _inputs(opened)
    return tuple(int(size.dim_value) for size in images[0].type.tensor_type.shape.dim) if images else ()


def _inputs(opened: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    weights = {constant.name for constant in opened.graph.initializer}
    return [value for value in opened.graph.input if value.name not in weights]


def set_batch(opened: onnx.ModelProto, batch: int | None, *, where: str) -> None:
    """Give a model with a free batch the batch ``batch``; None asks for the one that the model fixes.

    Sizes inside are forgotten, to be inferred again. Raises ``ModelError`` when the model fixes another batch,
    or none and none is asked for.
    """
    fixed = next(iter(image_sizes(opened)), 0)
    if fixed and batch not in (None, fixed):
        raise ModelError(
            f"{where} was exported with batch {fixed}, not {batch}; export it again with a free batch, or take "
            f"batch {fixed}"
        )
    if not fixed and batch is None:
        raise ModelError(f"{where} has no fixed batch; choose one, or export it with a fixed batch")
    if fixed or batch is None:
        return
    for value in _inputs(opened):
        sizes = value.type.tensor_type.shape.dim
        if sizes and not sizes[0].dim_value:
            sizes[0].dim_value = batch
    del opened.graph.value_info[:]
    for value in opened.graph.output:
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].ClearField("dim_param")


def onnx_at_batch(model: bytes | Path, *, batch: int) -> bytes:
    """Return an ONNX file, or its bytes, with the weights inside and a free batch set to ``batch``: ready to be run.

    Raises ``ModelError`` like ``open_onnx`` and ``set_batch``.
    """
    opened = open_onnx(model, weights=True)
    set_batch(opened, batch, where=where_of(model))
    try:
        return bytes(opened.SerializeToString())
    except Exception as error:  # protobuf's own limit of 2 GiB
        raise _unreadable(model, error) from error
