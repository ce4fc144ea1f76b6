"""How many configurations a second: session, search and traces included. Appends one line to rate.csv.

python benchmarks/h100/rate.py --search exhaustive --builds 1
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import configurations, write

from latency_model.errors import MeasurementError
from profiler import open_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--search", default="exhaustive", choices=["exhaustive", "heuristic", "default"])
    parser.add_argument("--builds", type=int, default=1, help="1: the bare rate; the default of rows is 4")
    parser.add_argument("--configs", type=int, default=640)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--out", type=Path, default=Path("rate.csv"))
    given = parser.parse_args()
    configs = configurations(given.configs, batch=given.batch, precision=given.precision)
    with open_backend(
        "onnxruntime", device="cuda:0", precision=given.precision, search=given.search,
        builds=given.builds, most_builds=given.builds, cold=False, check=False,
    ) as backend:  # fmt: skip
        at_once = backend.at_once
        list(
            backend.measure_many(configs[:at_once], run_id="warm-up")
        )  # loads libraries and raises the clock
        rest = configs[at_once:]
        start = time.perf_counter()
        outcomes = list(backend.measure_many(rest, run_id="rate"))
        seconds = time.perf_counter() - start
        environment = backend.environment
    failed = sum(isinstance(row, MeasurementError) for _, row in outcomes)
    head = (
        "search",
        "builds",
        "precision",
        "batch",
        "configs",
        "failed",
        "seconds",
        "per_second",
        "environment",
    )
    values = (
        given.search, given.builds, given.precision, given.batch, len(rest), failed, round(seconds, 2),
        round(len(rest) / seconds, 2), environment.text,
    )  # fmt: skip
    write(given.out, head, [values], append=True)
    print(*(f"{name}={value}" for name, value in zip(head, values, strict=True)))


if __name__ == "__main__":
    main()
