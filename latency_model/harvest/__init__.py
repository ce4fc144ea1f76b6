"""Harvest: from a torch module or an ONNX file to the convolutions that its runtime will execute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError
from latency_model.harvest.fusion import fuse
from latency_model.harvest.rewrite import rewritten
from latency_model.network import NetworkCost
from latency_model.shapes import LAYOUTS, PRECISIONS

if TYPE_CHECKING:
    from latency_model.harvest.graph import Graph
    from latency_model.harvest.onnx_file import onnx_at_batch
    from latency_model.zoo import LoadedModel

__all__ = ["harvest", "harvest_onnx", "onnx_at_batch"]


def harvest(
    loaded: LoadedModel, *, batch: int | None = None, precision: str | None = None, layout: str = "nchw"
) -> NetworkCost:
    """Return a model's convolutions at full width, as ONNX Runtime fuses them, and its other operators.

    A site is named after the module that owns its weight (``layer1.0.conv1``; a second use gets ``#2``), in
    an ONNX file without such names after its node. Each site gets channel groups of its own: ``NAME.in`` and
    ``NAME.out``, a depthwise one ``NAME``; an axis that reads the model's input image is fixed. Use
    ``NetworkCost.regroup`` for the real groups. Dropout and reshapes move no data and are left out; every
    other operator is among ``ops``, or in ``others`` where it has no ``OpShape``: 1-D, 3-D and transposed
    convolutions, and activations that the runtime fuses but that no pattern of a table has.

    Without ``batch`` and ``precision`` those of an ONNX file hold, where it fixes them, else 1 and ``fp32``.
    Raises ``ModelError`` for a model that cannot be traced, or a file that contradicts them, and leaves the
    module as it was.
    """
    if loaded.onnx_path is not None:
        batch = loaded.batch or 1 if batch is None else batch
        return harvest_onnx(
            loaded.onnx_path, batch=batch, precision=precision, layout=layout, name=loaded.name
        )
    if loaded.module is None:
        raise InputError(f"{loaded.name} has neither a module nor an ONNX file")
    batch = 1 if batch is None else batch
    _check(batch, precision, layout)
    from latency_model.harvest.from_torch import read_module

    graph = read_module(loaded.module, loaded.input_shape, batch=batch, name=loaded.name)
    return _cost(loaded.name, graph, precision, layout)


def harvest_onnx(
    model: bytes | Path,
    *,
    batch: int | None = None,
    precision: str | None = None,
    layout: str = "nchw",
    name: str = "",
) -> NetworkCost:
    """Return what ``harvest`` returns, for an ONNX file or its bytes.

    None as ``batch`` or ``precision`` takes what the file fixes. Raises ``ModelError`` for what is no ONNX
    model, for a file that fixes another batch or precision, and for one that fixes no batch if none is given.
    """
    _check(batch, precision, layout)
    from latency_model.harvest.from_onnx import read_onnx
    from latency_model.harvest.onnx_file import where_of

    graph = read_onnx(model, batch=batch, precision=precision)
    return _cost(name or where_of(model), graph, precision, layout)


def _check(batch: int | None, precision: str | None, layout: str) -> None:
    if batch is not None and batch < 1:
        raise InputError(f"the batch must be positive, not {batch}")
    if precision not in (None, *PRECISIONS) or layout not in LAYOUTS:
        raise InputError(
            f"unknown precision or layout {precision} {layout}; known are {', '.join(PRECISIONS + LAYOUTS)}"
        )


def _cost(name: str, graph: Graph, precision: str | None, layout: str) -> NetworkCost:
    found = fuse(rewritten(graph), precision=precision, layout=layout)
    return NetworkCost(name, found.sites, found.groups, found.others, found.ops, found.reorders)


def __getattr__(name: str) -> Any:
    if name == "onnx_at_batch":  # its module imports onnx
        from latency_model.harvest.onnx_file import onnx_at_batch

        return onnx_at_batch
    raise AttributeError(f"module 'latency_model.harvest' has no attribute {name!r}")
