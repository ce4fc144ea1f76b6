"""What TensorRT makes of a whole network: an engine of an ONNX file, and what it fuses with what."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_model import console
from latency_model.harvest import harvest_onnx, onnx_at_batch
from latency_model.harvest.engine_file import KEY, layers_to_json, read_layers
from latency_model.harvest.engine_layers import EngineLayer
from latency_model.harvest.from_engine import engine_cost
from latency_model.harvest.onnx_file import image_sizes, open_onnx

if TYPE_CHECKING:
    from profiler.gpu.tensorrt_build import Engine

__all__ = ["network_view", "show_network"]


def network_view(
    path: Path,
    *,
    batch: int | None = None,
    layers_file: Path | None = None,
    compute_capability: str | None = None,
    optimisation_level: int | None = None,
    flavour: str | None = None,
) -> dict[str, Any]:
    """Return, ready for JSON, what each layer of the network's engine executes, and the network's cost with it.

    The engine is built, strongly typed; with ``layers_file`` (``trtexec --exportLayerInfo``, built with
    ``--profilingVerbosity=detailed``) its layers are read instead. Without ``batch`` that of the file holds, or 1.
    Raises ``InputError`` for a file that cannot be read, ``MeasurementError`` when TensorRT refuses it.
    """
    fixed = next(iter(image_sizes(open_onnx(path))), 0)
    model = onnx_at_batch(path, batch=fixed or 1 if batch is None else batch)
    network = harvest_onnx(model, name=path.name)
    built: dict[str, Any] = {}
    if layers_file is None:
        layers, built = _build(model, path.name, compute_capability, optimisation_level, flavour)
    else:
        layers = read_layers(layers_file)
    cost = engine_cost(layers, model, network)
    writes = {layer.name: layer.formats for layer in layers}
    return {
        "network": path.name,
        **built,
        "layers": [
            {**dataclasses.asdict(use), "writes": list(writes.get(use.layer, ()))} for use in cost.layers
        ],
        "convolutions": {site.name: site.shape.text for site in cost.network.sites},
        "operators": {site.name: site.shape.text for site in cost.network.ops},
        "others": dict(cost.network.others),
        "merged": [list(names) for names in cost.merged],
        "in_place": list(cost.in_place),
        "unmatched": list(cost.unmatched),
        "notes": list(cost.notes),
        KEY: layers_to_json(layers),
    }


def _build(
    model: bytes, name: str, capability: str | None, level: int | None, flavour: str | None
) -> tuple[tuple[EngineLayer, ...], dict[str, Any]]:
    from profiler.gpu.tensorrt_build import build_engine
    from profiler.gpu.tensorrt_device import engine_layers

    engine: Engine = build_engine(
        model, compute_capability=capability, optimisation_level=level, flavour=flavour, what=name
    )
    return engine.layers or engine_layers(engine.flavour, engine.plan), {
        "runtime": engine.flavour,
        "version": engine.version,
        "compute_capability": engine.compute_capability,
        "engine_bytes": len(engine.plan),
        "build_seconds": round(engine.seconds, 4),
        "warnings": list(engine.warnings),
    }


def show_network(data: dict[str, Any]) -> None:
    """Print what ``network_view`` returned for people."""
    from rich.table import Table

    of = f": {data['runtime']} {data['version']}" if "runtime" in data else ""
    target = f" for compute capability {data['compute_capability']}" if data.get("compute_capability") else ""
    console.out.print(f"{data['network']}{of}{target}", highlight=False)
    view = Table("layer", "is", "executes", "of the network", "writes", box=None)
    for use in data["layers"]:
        view.add_row(
            use["layer"], use["role"], use["executes"], ", ".join(use["sites"]), ", ".join(use["writes"])
        )
    console.out.print(view)
    for names in data["merged"]:
        console.out.print(f"merged into one convolution: {', '.join(names)}", highlight=False)
    if data["in_place"]:
        console.out.print(
            f"written in place, without a kernel of its own: {', '.join(data['in_place'])}", highlight=False
        )
    for note in data["notes"]:
        console.out.print(f"note: {note}", highlight=False)
    if data["others"]:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(data["others"].items()))
        console.out.print(f"executed, but with no row of a table: {listed}", highlight=False)
    if "engine_bytes" in data:
        console.out.print(
            f"{data['engine_bytes']} bytes, built in {data['build_seconds']:.2f} s", highlight=False
        )
