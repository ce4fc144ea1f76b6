"""Do two fresh processes measure the same latency? Measures 100 configurations twice on this CPU.

    python benchmarks/profiler_cpu_repeatability.py

Each process profiles all configurations as `gharial profile` does, further readings included. Prints the share
of rows whose two latencies are within 5 % of each other and the share whose interval covers the latency of the
other process, and writes profiler_cpu_repeatability.csv beside this file. The load average is part of the output.
"""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cpu_sites import configurations

from profiler import BackendSpec, profile

SHARES = (1.0, 0.875, 0.8, 0.75, 0.625, 0.5, 0.4, 0.375, 0.25, 0.125)


def measure(seed: int) -> None:
    shapes = configurations(SHARES)
    random.Random(seed).shuffle(shapes)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        table = profile(BackendSpec("onnxruntime"), shapes, out=Path(folder) / "table.parquet")
    rows = [
        (shape.text, row.latency_us, row.low_us, row.high_us, row.samples, " ".join(row.flags))
        for shape, row in table.items()
    ]
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "seconds": seconds, "environment": table.environment.text}))


def child(seed: int) -> dict[str, object]:
    command = [sys.executable, __file__, str(seed)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def main() -> None:
    load = os.getloadavg()[0]
    first, second = child(1), child(2)
    ours = {row[0]: row[1:] for row in first["rows"]}
    theirs = {row[0]: row[1:] for row in second["rows"]}
    off, table = [], []
    for shape in sorted(ours):
        a, b = ours[shape], theirs[shape]
        off.append(abs(a[0] - b[0]) / ((a[0] + b[0]) / 2))
        table.append((shape, *a, *b, f"{off[-1]:.5f}"))
    columns = ("us", "low_us", "high_us", "samples", "flags")
    names = [f"{column}_{run}" for run in (1, 2) for column in columns]
    with Path(__file__).with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("config", *names, "relative_difference"))
        writer.writerows(table)
    covered = sum(
        (a[1] <= b[0] <= a[2]) + (b[1] <= a[0] <= b[2]) for a, b in ((ours[s], theirs[s]) for s in ours)
    ) / (2 * len(ours))
    steady = [float(row[-1]) for row in table if "unstable" not in row[5] + row[10]]
    off.sort()
    print(first["environment"])
    print(f"load average before: {load:.2f}; {first['seconds']:.1f} s and {second['seconds']:.1f} s")
    share = sum(x <= 0.05 for x in off) / len(off)
    print(
        f"{len(off)} configurations in two fresh processes: {share:.1%} within 5 %, "
        f"median difference {off[len(off) // 2]:.2%}, 95th percentile {off[int(len(off) * 0.95)]:.2%}, "
        f"largest {off[-1]:.2%}"
    )
    print(f"{covered:.1%} of the intervals cover the latency that the other process found")
    print(
        f"{len(steady)} of them without the flag `unstable` in either process: "
        f"{sum(x <= 0.05 for x in steady) / max(len(steady), 1):.1%} within 5 %"
    )


if __name__ == "__main__":
    measure(int(sys.argv[1])) if len(sys.argv) > 1 else main()
