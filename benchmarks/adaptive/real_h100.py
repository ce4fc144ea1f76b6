"""The reconstruction on measured rows of an H100: a dense 1x1 grid from part of it, and rows left out.

    python benchmarks/adaptive/real_h100.py ROWS.parquet

ROWS is as for calibrate.py. The dense grid is 1x1, batch 32, 28x28, 32..512 -> 16..128 channels, 128 points.
The other rows are random over their sites' grids, a few per cent of each at most: five folds, each predicted
from the other four, sites with 25 rows or more. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from calibrate import DENSE, load  # noqa: E402

from latency_model.kriging import fit_weights  # noqa: E402
from latency_model.measurement import Measurement  # noqa: E402
from latency_model.reconstruct import GridModel, reconstruct  # noqa: E402
from latency_model.shapes import ConvShape  # noqa: E402
from profiler.adaptive import AdaptivePlan, site_grids  # noqa: E402


def measured(rows: pd.DataFrame) -> dict[ConvShape, Measurement]:
    found = {}
    for row in rows.itertuples():
        size, pad = int(row.kernel_size), int(row.kernel_size) // 2
        shape = ConvShape(
            int(row.batch), int(row.in_channels), int(row.height), int(row.height), int(row.out_channels),
            (size,) * 2, (int(row.stride),) * 2, (pad,) * 4, precision="fp16", layout="nhwc",
        )  # fmt: skip
        us = float(row.conv_us)
        low, high = us * 0.99, us * 1.01
        kernel = str(row.conv_kernel_names)
        found[shape] = Measurement(
            us, low, high, low, us, us, high, low, 15, "kernel-trace", kernels=((kernel, 1.0),)
        )
    return found


def told(error: np.ndarray) -> dict[str, float]:
    return {
        "points": len(error),
        "mape": round(float(error.mean()), 4),
        "median": round(float(np.median(error)), 4),
        "p90": round(float(np.quantile(error, 0.9)), 4),
        "p99": round(float(np.quantile(error, 0.99)), 4),
    }


def dense(rows: pd.DataFrame, budget: float) -> dict[str, float]:
    part = rows[(rows.index < DENSE) & (rows.kernel_size == 1) & (rows.batch == 32) & (rows.height == 28)]
    known = measured(part)
    grid = site_grids(known)[0]
    plan, seen = AdaptivePlan([grid], budget), {}
    while batch := plan.next_batch(seen):
        seen.update((shape, known[shape]) for shape in batch)
    found = reconstruct(seen, list(grid.inputs), list(grid.outputs))
    truth = np.array([[known[grid.shape((i, j))].latency_us for j in range(found.latency_us.shape[1])]
                      for i in range(found.latency_us.shape[0])])  # fmt: skip
    free = ~found.measured
    inside = ((found.low_us <= truth) & (truth <= found.high_us))[free].mean()
    error = np.abs(found.latency_us / truth - 1).ravel()
    return {"measured": len(seen), **told(error), "coverage": round(float(inside), 3)}


def folds(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    sites: dict[ConvShape, dict[ConvShape, Measurement]] = {}
    for shape, row in measured(rows[rows.index >= DENSE]).items():
        sites.setdefault(shape.site, {})[shape] = row
    chosen = [site for _, site in sorted(sites.items()) if len(site) >= 25]
    errors: dict[str, list[float]] = {"1x1": [], "3x3": []}
    for fold in range(5):
        models, held = [], []
        for site in chosen:
            shapes = sorted(site)
            order = np.random.default_rng(0).permutation(len(shapes))
            out = {shapes[i] for i in order[fold::5]}
            axes = ([s.in_channels for s in shapes], [s.out_channels for s in shapes])
            models.append(GridModel({s: site[s] for s in shapes if s not in out}, *axes))
            held.append({s: site[s] for s in out})
        weights = fit_weights([model.sample for model in models])
        for model, out in zip(models, held, strict=True):
            model.condition(weights)
            found = model.reconstruction()
            for shape, row in out.items():
                i = np.searchsorted(found.inputs, shape.in_channels)
                j = np.searchsorted(found.outputs, shape.out_channels)
                kind = "1x1" if shape.kernel == (1, 1) else "3x3"
                errors[kind].append(abs(found.latency_us[i, j] / row.latency_us - 1))
    return {kind: told(np.array(found)) for kind, found in errors.items() if found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    rows = load(parser.parse_args().rows)
    report = {f"dense_1x1_at_{budget:.0%}": dense(rows, budget) for budget in (0.05, 0.1, 0.2)}
    print(json.dumps({**report, "rows_left_out": folds(rows)}, indent=1))


if __name__ == "__main__":
    main()
