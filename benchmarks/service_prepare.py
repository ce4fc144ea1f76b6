"""A database for the service's benchmarks: a million rows of made-up latencies, and a ResNet-50 beside them.

    python benchmarks/service_prepare.py --work FOLDER [--rows 1000000]

Writes FOLDER/gharial.db, FOLDER/resnet50.onnx and FOLDER/environment.txt, the key of the environment. The rows of
ResNet-50's convolutions are among them, so that it can be estimated. Seeds are fixed.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np

from latency_model.environment import Environment
from latency_model.harvest import harvest_onnx
from latency_model.measurement import Measurement
from latency_model.service.store.database import open_database
from latency_model.service.store.rows import put
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

ENVIRONMENT = Environment("Benchmark device", "cpu", "onnxruntime", "1.0", options=(("threads", "1"),))
PART = 50_000


def measurement(us: float) -> Measurement:
    return Measurement(
        us, us * 0.99, us * 1.01, us, us, us, us, us, 50, "fake", measured_at="2026-01-01T00:00:00Z"
    )


def shapes(count: int, seed: int = 6) -> list[ConvShape]:
    """Return ``count`` different convolutions."""
    draw = np.random.default_rng(seed)
    sizes = [(size, kernel) for size in (7, 8, 14, 16, 28, 32, 56, 112) for kernel in (1, 3, 5, 7)]
    found: dict[ConvShape, None] = {}
    while len(found) < count:
        inputs, outputs = draw.integers(1, 1025, (2, PART)).tolist()
        kinds, batches = draw.integers(0, len(sizes), PART).tolist(), draw.integers(0, 4, PART).tolist()
        for a, b, kind, batch in zip(inputs, outputs, kinds, batches, strict=True):
            size, kernel = sizes[kind]
            found[ConvShape(2**batch, a, size, size, b, (kernel, kernel), padding=(kernel // 2,) * 4)] = None
    return list(found)[:count]


def resnet50(path: Path) -> None:
    import torch
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.resnet50(weights=None).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, torch.zeros(1, 3, 224, 224), str(path), dynamo=False, opset_version=17)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--work", type=Path, required=True)
    asked.add_argument("--rows", type=int, default=1_000_000)
    given = asked.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = given.work / "resnet50.onnx"
    if not model.exists():
        resnet50(model)
    network = harvest_onnx(model)
    wanted = dict.fromkeys([site.shape for site in network.sites]) | dict.fromkeys(shapes(given.rows))
    found = list(wanted)[: given.rows]
    print(f"{len(found)} convolutions", flush=True)
    database = open_database(f"sqlite:///{given.work / 'gharial.db'}")
    database.migrate()
    start = time.perf_counter()
    for place in range(0, len(found), PART):
        rows = {shape: measurement(1.0 + shape.macs * 1e-6) for shape in found[place : place + PART]}
        report = put(
            database, LatencyTable(ENVIRONMENT, rows), source="benchmark", run_id=f"benchmark-{place}"
        )
        print(f"{place + len(rows)} rows, {time.perf_counter() - start:.0f} s", flush=True)
    (given.work / "environment.txt").write_text(report.key)
    database.close()


if __name__ == "__main__":
    main()
