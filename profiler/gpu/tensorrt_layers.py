"""What TensorRT made of copies of one convolution: whether each was fused as asked.

The layers come from ``latency_model.harvest.engine_layers``. Without a device TensorRT-RTX has fused them already,
but chooses the kernel of each convolution only on the device that runs the engine: its tactic is then a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from latency_model.errors import MeasurementError
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.shapes import ConvShape

__all__ = ["Fusion", "fused_pattern", "merged", "reformats"]

_OF_COPY = re.compile(r"(?P<part>conv|sum|gate|act|quant)(?P<copy>\d+)")
_CONVOLUTION = re.compile(r"(?:conv|out)\w*")


@dataclass(frozen=True, slots=True)
class Fusion:
    """How one copy of a convolution is executed.

    ``pattern`` is what the layer that holds the convolution executes, ``layers`` are all layers that compute a
    part of the copy, and ``fused`` says whether that is one layer with everything. ``reads`` is the type and format
    of what the convolution reads: where an int8 convolution reads floats, TensorRT does not compute it in int8.
    """

    fused: bool
    pattern: str
    layers: tuple[str, ...]
    reads: str = ""


def fused_pattern(layers: Sequence[EngineLayer], shape: ConvShape, *, copy: int = 0) -> Fusion:
    """Say how copy number ``copy`` of ``shape`` is executed, in a graph whose operators are named as ours are.

    The names are those of ``conv_copies`` and ``conv_network``: conv0, sum0, gate0, act0, quant0. Layers that
    only move data do not count. Raises ``MeasurementError`` when no layer executes the copy.
    """
    holding: dict[str, set[str]] = {}
    reads = ""
    for layer in layers:
        parts = {
            match["part"]
            for operator in layer.operators
            if (match := _OF_COPY.fullmatch(operator)) and int(match["copy"]) == copy
        }
        if parts and not layer.moves_data:
            holding[layer.name] = parts
            if "conv" in parts and not reads and layer.reads:
                reads = layer.reads[0]
    first = next((parts for parts in holding.values() if "conv" in parts), None)
    if first is None:
        raise MeasurementError(f"the engine has no layer that executes copy {copy} of {shape}")
    # A bias has no operator of its own: where another layer holds the convolution too, that one adds it.
    apart = sum("conv" in parts for parts in holding.values()) > 1
    here = []
    for part in shape.pattern.split("+"):
        operator = {"conv": "conv", "bias": "conv", "add": "sum"}.get(part, "act")
        if operator in first and not (part == "bias" and apart):
            here.append(part)
    pattern = "+".join(here)
    return Fusion(len(holding) == 1 and pattern == shape.pattern, pattern, tuple(holding), reads)


def reformats(layers: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Return the layers that only move data."""
    return tuple(layer for layer in layers if layer.moves_data)


def merged(layers: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Return the layers that compute several of the graph's convolutions at once: copies merged horizontally."""
    return tuple(
        layer
        for layer in layers
        if not layer.moves_data and sum(bool(_CONVOLUTION.fullmatch(name)) for name in layer.operators) > 1
    )
