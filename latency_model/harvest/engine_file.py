"""The layers of an engine as a file, and the network cost that such a file and the ONNX file make together."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latency_model.errors import InputError, MeasurementError
from latency_model.harvest import harvest_onnx, onnx_at_batch
from latency_model.harvest.engine_layers import EngineLayer, EngineTensor, layers_from_json
from latency_model.harvest.from_engine import EngineCost, engine_cost
from latency_model.harvest.onnx_file import image_sizes, open_onnx

__all__ = ["KEY", "harvest_engine", "layers_to_json", "read_layers"]

KEY = "engine_layers"  # where gharial inspect puts them


def layers_to_json(layers: Sequence[EngineLayer]) -> list[dict[str, Any]]:
    """Return the layers ready for JSON; ``read_layers`` reads them back from a file that has them under ``KEY``."""
    return [dataclasses.asdict(layer) for layer in layers]


def read_layers(path: Path) -> tuple[EngineLayer, ...]:
    """Return the layers in a file of ``trtexec --exportLayerInfo`` or ``gharial inspect NET.onnx --json``.

    Raises ``InputError`` for a file that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
        if isinstance(data, Mapping) and KEY in data:
            return tuple(_layer(entry) for entry in data[KEY])
        return layers_from_json(text)
    except (OSError, ValueError, TypeError, KeyError, MeasurementError) as error:
        raise InputError(
            f"{path} has no layers of an engine ({error}); give the file that trtexec --exportLayerInfo wrote of an "
            "engine with detailed profiling verbosity, or what gharial inspect NET.onnx --json printed"
        ) from error


def harvest_engine(
    model: Path,
    engine: Path,
    *,
    batch: int | None = None,
    precision: str | None = None,
    layout: str = "nchw",
) -> EngineCost:
    """Return what the ONNX file ``model`` spends with the fusions of the engine whose layers are in ``engine``.

    Without ``batch`` that of the file holds, or 1. Raises ``InputError`` for files that do not belong together,
    ``ModelError`` for an ONNX file that cannot be read.
    """
    fixed = next(iter(image_sizes(open_onnx(model))), 0)
    content = onnx_at_batch(model, batch=fixed or 1 if batch is None else batch)
    network = harvest_onnx(content, precision=precision, layout=layout, name=model.name)
    return engine_cost(read_layers(engine), content, network)


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    plain = dict(entry)
    for side in ("inputs", "outputs"):
        plain[side] = tuple(
            EngineTensor(str(t["name"]), tuple(map(int, t["dims"])), str(t["format"])) for t in plain[side]
        )
    for listed in ("formats", "operators", "reads"):
        plain[listed] = tuple(map(str, plain[listed]))
    return EngineLayer(**plain)
