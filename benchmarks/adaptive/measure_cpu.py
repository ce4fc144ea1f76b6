"""Measure whole step-8 grids of a few ResNet-50 sites on this CPU: real grids to judge the adaptive plan on.

    python benchmarks/adaptive/measure_cpu.py --out benchmarks/adaptive/cpu_grids.csv

Goes on where it was stopped. The order is random, so that drift of the machine is not a slope.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

from latency_model.errors import MeasurementError
from latency_model.shapes import ConvShape
from profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu
from profiler.sampling import Policy

SITES = (
    "1x128x14x14 ->128 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
    "1x256x7x7 ->512 k1 s1 p0 g1 conv+bias+relu fp32 nchw",
    "1x256x14x14 ->256 k1 s1 p0 g1 conv+bias+relu fp32 nchw",
    "1x256x7x7 ->256 k3 s1 p1 g1 conv+bias+relu fp32 nchw",
)
FIELDS = ("config", "latency_us", "low_us", "high_us")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sites", type=int, default=len(SITES))
    arguments = parser.parse_args()
    done = set()
    if arguments.out.exists():
        with arguments.out.open(newline="") as stream:
            done = {row["config"] for row in csv.DictReader(stream)}
    policy = Policy(relative=0.01, max_seconds=0.06, warm_up_seconds=0.1)
    with OnnxRuntimeCpu(policy=policy) as backend, arguments.out.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if not done:
            writer.writerow(FIELDS)
        for text in SITES[: arguments.sites]:
            full = ConvShape.parse(text)
            shapes = [
                full.with_channels(a, b)
                for a in range(8, full.in_channels + 1, 8)
                for b in range(8, full.out_channels + 1, 8)
            ]
            random.Random(0).shuffle(shapes)
            for shape in shapes:
                if shape.text in done:
                    continue
                try:
                    row = backend.measure(shape, run_id="grid")
                except MeasurementError as error:
                    print(f"{shape}: {error}")
                    continue
                writer.writerow(
                    [shape.text, *(f"{v:.3f}" for v in (row.latency_us, row.low_us, row.high_us))]
                )
                stream.flush()


if __name__ == "__main__":
    main()
