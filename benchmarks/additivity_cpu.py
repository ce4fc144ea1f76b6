"""Do the rows of a network sum to its latency? Rows and whole networks through ONNX Runtime on this CPU.

    python benchmarks/additivity_cpu.py [--networks resnet20:1,resnet18:8] [--passes 2]

Every convolution, other operator and change of layout of each network is measured as ``gharial profile`` does,
one after the other; the whole network is timed before, after, and once for each ``_EVERY`` rows between. Both take
the fastest of ``--passes``: what else the machine does only ever adds. Nothing is corrected. Prints the ratio of
the sum to the network and where the time goes, and writes additivity_cpu.csv beside this file. Keep the
machine idle meanwhile; the load average is part of the output.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from pathlib import Path

import torch
from common import write_lines
from untrained import biased

from latency_model.errors import MeasurementError
from latency_model.harvest import harvest
from latency_model.ops import Config
from latency_model.zoo import load_model
from profiler import export_onnx
from profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu

NETWORKS = (
    ("torchvision:resnet18", 1),
    ("torchvision:resnet18", 8),
    ("torchvision:resnet50", 1),
    ("torchvision:resnet50", 8),
    ("resnet20", 1),
    ("torchvision:mobilenet_v2", 1),
)
_EVERY = 8


def examine(name: str, batch: int, *, passes: int, details: bool) -> dict[str, object]:
    """Return one line of the result."""
    loaded = load_model(name, seed=0)
    assert loaded.module is not None
    cost = harvest(loaded, batch=batch)
    model = export_onnx(biased(loaded.module), loaded.input_shape, batch=batch)
    parts: dict[str, Counter[Config]] = {
        "conv": Counter(shape for _, shape in cost.shapes()),
        "ops": Counter(op.shape for op in cost.ops),
        "reorders": Counter(op.shape for op in cost.reorders),
    }
    rows: dict[Config, list[float]] = {}
    whole: list[float] = []
    failed: list[str] = []
    with OnnxRuntimeCpu() as backend:
        for _ in range(passes):
            for index, shape in enumerate(dict.fromkeys(s for part in parts.values() for s in part)):
                if index % _EVERY == 0:
                    whole.append(backend.time_networks([model], rounds=3)[0].latency_us)
                try:
                    rows.setdefault(shape, []).append(backend.measure(shape, run_id="additivity").latency_us)
                except MeasurementError as error:
                    failed.append(str(error))
            whole.append(backend.time_networks([model], rounds=3)[0].latency_us)
    best = {shape: min(times) for shape, times in rows.items()}
    sums = {
        part: sum(best.get(shape, 0.0) * count for shape, count in counts.items())
        for part, counts in parts.items()
    }
    if details:
        for shape in sorted(best, key=lambda s: -best[s])[:12]:
            count = sum(part[shape] for part in parts.values())
            print(f"    {best[shape]:9.1f} us x{count}  {[round(t, 1) for t in rows[shape]]}  {shape}")
    total, measured = sum(sums.values()), min(whole)
    return {
        "network": name,
        "batch": batch,
        "measured_us": round(measured, 1),
        "sum_us": round(total, 1),
        "ratio": round(total / measured, 4),
        **{f"{part}_us": round(value, 1) for part, value in sums.items()},
        "others": sum(cost.others.values()),
        "failed": len(failed),
        "spread_of_network": round(max(whole) / measured, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", help="such as resnet20:1,torchvision:resnet18:8")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--details", action="store_true", help="print the dearest rows")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = list(NETWORKS)
    if options.networks:
        parts = [text.rpartition(":") for text in options.networks.split(",")]
        wanted = [(name, int(batch)) for name, _, batch in parts]
    lines = []
    for name, batch in wanted:
        start = time.perf_counter()
        lines.append(examine(name, batch, passes=options.passes, details=options.details))
        print(lines[-1], f"{time.perf_counter() - start:.0f} s", flush=True)
        write_lines(options.out, lines, end="\r\n")


if __name__ == "__main__":
    main()
