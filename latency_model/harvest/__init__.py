"""Harvest: from a torch module or an ONNX file to the convolutions that its runtime will execute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from latency_model.errors import InputError
from latency_model.harvest.fusion import fuse
from latency_model.network import NetworkCost
from latency_model.shapes import LAYOUTS, PRECISIONS

if TYPE_CHECKING:
    from latency_model.zoo import LoadedModel

__all__ = ["harvest"]


def harvest(loaded: LoadedModel, *, batch: int, precision: str = "fp32", layout: str = "nchw") -> NetworkCost:
    """Return a model's convolutions at full width, as ONNX Runtime fuses them, and its other operators.

    A site is named after the module that owns its weight (``layer1.0.conv1``; a second use gets ``#2``), in
    an ONNX file without such names after its node. Each site gets channel groups of its own: ``NAME.in`` and
    ``NAME.out``, a depthwise one ``NAME``; an axis that reads the model's input image is fixed. Use
    ``NetworkCost.regroup`` for the real groups. Dropout and reshapes move no data and are not counted; every
    other operator is, 1-D, 3-D and transposed convolutions included. Raises ``ModelError`` for a model that
    cannot be traced, and leaves the module as it was.
    """
    if batch < 1:
        raise InputError(f"the batch must be positive, not {batch}")
    if precision not in PRECISIONS or layout not in LAYOUTS:
        raise InputError(
            f"unknown precision or layout {precision} {layout}; known are {', '.join(PRECISIONS + LAYOUTS)}"
        )
    if loaded.module is not None:
        from latency_model.harvest.from_torch import read_module

        graph = read_module(loaded.module, loaded.input_shape, batch=batch, name=loaded.name)
    elif loaded.onnx_path is not None:
        from latency_model.harvest.from_onnx import read_onnx

        graph = read_onnx(loaded.onnx_path, batch=batch)
    else:
        raise InputError(f"{loaded.name} has neither a module nor an ONNX file")
    sites, groups, others = fuse(graph, precision=precision, layout=layout)
    return NetworkCost(loaded.name, sites, groups, others)
