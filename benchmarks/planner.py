"""Plan and deduplicate 100,000 configurations, and run them through the whole bookkeeping on the fake device.

    python benchmarks/planner.py

Prints the processor time of planning, the rows per second of a run (worker process, pipe, journal with a wait for
the disk, table), and the resident memory of the command while it runs; writes planner.json and, with the memory
over the run, planner_memory.csv beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from latency_model import Channels, ConvShape, LatencyTable, NetworkCost, Site
from profiler.plan import plan
from profiler.runner import profile
from profiler.spec import BackendSpec

CHANNELS = 2560  # 320 x 320 = 102,400 pairs at a step of 8
EVERY = 2000


def rss_mb() -> float:
    """Return the resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def network() -> NetworkCost:
    """Return a network of one site with 102,400 channel pairs at a step of 8."""
    site = Site(
        "conv",
        ConvShape(1, CHANNELS, 8, 8, CHANNELS),
        Channels(terms=(("a", 1),)),
        Channels(terms=(("b", 1),)),
    )
    return NetworkCost("net", (site,), {"a": CHANNELS, "b": CHANNELS})


def main() -> int:
    """Run the benchmark and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, default=1, help="configurations in a pack")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    given = parser.parse_args()
    net = network()
    processor, wall = time.process_time(), time.perf_counter()
    shapes = plan([net, net])
    planned = {"cpu_s": time.process_time() - processor, "wall_s": time.perf_counter() - wall}
    memory: list[tuple[int, float, float]] = []
    before = rss_mb()
    start = time.perf_counter()

    def progress(done: int, total: int, what: str) -> None:  # noqa: ARG001 - what the runner calls
        if done % EVERY == 0:
            memory.append((done, round(time.perf_counter() - start, 2), round(rss_mb(), 1)))

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "table.parquet"
        spec = BackendSpec("fake", options={"at_once": given.at_once})
        table = profile(spec, shapes, out=out, progress=progress)
        seconds = time.perf_counter() - start
        after = rss_mb()
        size = out.stat().st_size
        begun = time.perf_counter()
        loaded = len(LatencyTable.load(out))
        load_s = time.perf_counter() - begun
    result = {
        "configurations": len(shapes),
        "at_once": given.at_once,
        "plan_cpu_s": round(planned["cpu_s"], 2),
        "plan_wall_s": round(planned["wall_s"], 2),
        "rows": len(table),
        "loaded": loaded,
        "seconds": round(seconds, 1),
        "measuring_seconds": memory[-1][1],
        "rows_per_second": round(memory[-1][0] / memory[-1][1]),
        "rss_mb_before": round(before, 1),
        "rss_mb_all_measured": memory[-1][2],
        "rss_mb_at_the_end": round(after, 1),
        "table_mb": round(size / 1e6, 1),
        "load_s": round(load_s, 1),
        "python": sys.version.split()[0],
    }
    (given.out / "planner.json").write_text(json.dumps(result, indent=2) + "\n")
    with (given.out / "planner_memory.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["rows", "seconds", "rss_mb"])
        writer.writerows(memory)
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
