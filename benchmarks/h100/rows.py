"""Measure configurations in this process, in an order of its own, and write the rows as CSV.

    python benchmarks/h100/rows.py --seed 1 --out rows_a.csv

Two such files, from two processes, go to compare.py. Stops before --seconds with what it has.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from common import HEAD, configurations, line, write

from latency_model.errors import MeasurementError
from profiler import open_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configs", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--search", default="exhaustive")
    parser.add_argument(
        "--seed", type=int, required=True, help="of the order; the configurations are the same"
    )
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    late = time.perf_counter() + given.seconds
    configs = configurations(given.configs, batch=given.batch, precision=given.precision)
    # Every process takes the packs in one order, so what there is no time for is the same end of the list.
    size = 128
    packs = [configs[start : start + size] for start in range(0, len(configs), size)]
    failed = 0
    with open_backend(
        "onnxruntime", device="cuda:0", precision=given.precision, search=given.search
    ) as backend:
        for number, pack in enumerate(packs):
            if time.perf_counter() > late:
                print(f"no time for {sum(map(len, packs[number:]))} configurations")
                break
            random.Random(given.seed * 1000 + number).shuffle(pack)
            outcomes = list(backend.measure_many(pack, run_id=f"rows-{given.seed}"))
            rows = [line(config, row) for config, row in outcomes if not isinstance(row, MeasurementError)]
            write(given.out, HEAD, rows, append=number > 0)
            for config, row in outcomes:
                if isinstance(row, MeasurementError):
                    failed += 1
                    print(f"failed: {config}: {row}")
        print(backend.environment.text, f"{failed} failed", sep="\n")


if __name__ == "__main__":
    main()
