"""What the H100 scripts share: which configurations, which networks, and how rows become CSV."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from latency_model.harvest import harvest
from latency_model.measurement import Measurement
from latency_model.network import NetworkCost
from latency_model.shapes import ConvShape
from latency_model.zoo import load_model
from profiler.onnx_export import export_onnx
from profiler.plan import plan

HEAD = (
    "config", "latency_us", "low_us", "high_us", "samples", "method", "boundary_us", "cold_us", "error",
    "sm_clock_mhz", "kernels", "candidates", "flags",
)  # fmt: skip


def configurations(count: int, *, batch: int = 8, precision: str = "fp16", seed: int = 0) -> list[ConvShape]:
    """Return ``count`` convolutions of ResNet-18 and ResNet-50 at channel counts of step 8, in random order."""
    models = [load_model(name) for name in ("torchvision:resnet18", "torchvision:resnet50")]
    costs = [harvest(model, batch=batch, precision=precision) for model in models]
    shapes = list(plan(costs, step=8))
    random.Random(seed).shuffle(shapes)
    return shapes[:count]


def half(model: bytes) -> bytes:
    """Return an fp32 network with every float tensor in fp16: strongly typed, no cast anywhere."""
    network = onnx.load_model_from_string(model)
    graph = network.graph
    for constant in [
        *graph.initializer,
        *(a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR),
    ]:
        if constant.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
    for entry in (*graph.input, *graph.output):
        if entry.type.tensor_type.elem_type == TensorProto.FLOAT:
            entry.type.tensor_type.elem_type = TensorProto.FLOAT16
    del graph.value_info[:]
    return bytes(network.SerializeToString())


def network(name: str, *, batch: int, precision: str) -> tuple[NetworkCost, bytes]:
    """Return the cost of a network and the network as ONNX, both in ``precision``."""
    model = load_model(name)
    exported = export_onnx(model.module, model.input_shape, batch=batch)
    cost = harvest(model, batch=batch, precision=precision)
    return cost, half(exported) if precision == "fp16" else exported


def line(config: Any, row: Measurement) -> tuple[Any, ...]:
    """Return a row as the columns of ``HEAD``."""
    return (
        str(config), row.latency_us, row.low_us, row.high_us, row.samples, row.method, row.boundary_us,
        row.cold_us, row.error, row.sm_clock_mhz, ";".join(f"{name}={share:.4f}" for name, share in row.kernels),
        ";".join(f"{c.kernels}={c.latency_us:.3f}us/{c.builds}" for c in row.candidates), " ".join(row.flags),
    )  # fmt: skip


def write(path: Path, head: Sequence[str], lines: Iterable[Sequence[Any]], *, append: bool = False) -> None:
    """Write CSV; with ``append`` after what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not (append and path.is_file())
    with path.open("w" if fresh else "a", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        if fresh:
            table.writerow(head)
        table.writerows(lines)
