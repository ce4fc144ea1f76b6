"""The plain sum of a network's convolution rows against the replay of the whole network. Bar: within 6 %.

    python benchmarks/h100/sums.py --out sums.csv

The sum holds the convolutions with what is fused into them, nothing else and no correction.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import network, write

from latency_model.errors import MeasurementError
from profiler import open_backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=["torchvision:resnet18", "torchvision:resnet50"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--out", type=Path, default=Path("sums.csv"))
    given = parser.parse_args()
    made = {
        (name, batch): network(name, batch=batch, precision=given.precision)
        for name in given.networks
        for batch in given.batches
    }
    shapes = {key: [shape for _, shape in cost.shapes()] for key, (cost, _) in made.items()}
    lines = []
    with open_backend("onnxruntime", device="cuda:0", precision=given.precision) as backend:
        wanted = list(dict.fromkeys(shape for each in shapes.values() for shape in each))
        rows = dict(backend.measure_many(wanted, run_id="sums"))
        for config, row in rows.items():
            if isinstance(row, MeasurementError):
                raise SystemExit(f"{config} could not be timed: {row}")
        replays = backend.time_networks([model for _, model in made.values()], run_id="sums")
        for (name, batch), replay in zip(made, replays, strict=True):
            total = sum(rows[shape].latency_us for shape in shapes[name, batch])
            cold = [rows[shape].cold_us for shape in shapes[name, batch]]
            lines.append(
                (
                    name, batch, given.precision, len(cold), round(total, 2),
                    "" if None in cold else round(sum(cold), 2), round(replay.latency_us, 2),
                    round(replay.low_us, 2), round(replay.high_us, 2), round(100 * (total / replay.latency_us - 1), 2),
                )
            )  # fmt: skip
            print(*lines[-1])
    head = (
        "network", "batch", "precision", "convolutions", "sum_us", "cold_sum_us", "replay_us", "replay_low_us",
        "replay_high_us", "difference_percent",
    )  # fmt: skip
    write(given.out, head, lines)


if __name__ == "__main__":
    main()
