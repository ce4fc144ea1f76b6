"""Fit h100_like.Parameters to measured rows of an H100, and say how alike the two are.

    python benchmarks/adaptive/calibrate.py ROWS.parquet

ROWS has the columns of the probe (batch, in_channels, height, out_channels, kernel_size, stride, groups,
conv_us). Only channels in steps of 8 and batches 8 and 32 are used. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from h100_like import Parameters, latencies, with_values

DENSE = 292


def load(path: Path) -> pd.DataFrame:
    rows = pd.read_parquet(path).reset_index(drop=True)
    rows["dense"] = rows.index < DENSE
    keep = (
        (rows.groups == 1)
        & (rows.in_channels % 8 == 0)
        & (rows.out_channels % 8 == 0)
        & (rows.in_channels >= 8)
    )
    return rows[keep & rows.batch.isin([8, 32]) & rows.kernel_size.isin([1, 3]) & rows.stride.isin([1, 2])]


def predict(rows: pd.DataFrame, parameters: Parameters, seed: int = 0) -> np.ndarray:
    result = np.empty(len(rows))
    for (size, stride), index in rows.groupby(["kernel_size", "stride"]).indices.items():
        part = rows.iloc[index]
        columns = (part[c].to_numpy() for c in ("batch", "height"))
        a, b = part.in_channels.to_numpy(), part.out_channels.to_numpy()
        result[index] = latencies(*columns, int(size), int(stride), a, b, parameters=parameters, seed=seed)[0]
    return result


def loss(rows: pd.DataFrame, parameters: Parameters) -> float:
    error = np.log(predict(rows, parameters)) - np.log(rows.conv_us.to_numpy())
    return float(np.mean(np.minimum(np.abs(error), 0.7)))


def nastiness(rows: pd.DataFrame, us: np.ndarray) -> dict[str, float]:
    """Return how often a larger convolution of the sample is faster, and how rough the dense 3x3 lines are."""
    total = over5 = over20 = 0
    for _, index in rows.groupby(["batch", "height", "kernel_size", "stride"]).indices.items():
        a, b, t = rows.in_channels.to_numpy()[index], rows.out_channels.to_numpy()[index], us[index]
        for i in range(len(index)):
            larger = (a >= a[i]) & (b >= b[i]) & ((a > a[i]) | (b > b[i]))
            if larger.any():
                ratio = t[i] / t[larger].min()
                total, over5, over20 = total + 1, over5 + (ratio > 1.05), over20 + (ratio > 1.2)
    steps = []
    for fixed, axis in (("in_channels", "out_channels"), ("out_channels", "in_channels")):
        line = rows.dense.to_numpy() & (rows.kernel_size == 3).to_numpy() & (rows[fixed] == 256).to_numpy()
        order = np.argsort(rows[axis].to_numpy()[line])
        steps.append(np.abs(np.diff(np.log(us[line][order]))))
    jumps = np.concatenate(steps)
    return {
        "dominated_rows": total,
        "slower_than_a_larger_one_by_5_percent": over5 / total,
        "slower_than_a_larger_one_by_20_percent": over20 / total,
        "neighbours_on_3x3_lines_apart_by_5_percent": float((jumps > 0.05).mean()),
        "neighbours_on_3x3_lines_apart_by_20_percent": float((jumps > 0.2).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--iterations", type=int, default=400)
    arguments = parser.parse_args()
    rows = load(arguments.rows)
    rng, best = np.random.default_rng(0), Parameters()
    fit = rows.sample(min(len(rows), 700), random_state=0)
    value, scale = loss(fit, best), 0.35
    for iteration in range(arguments.iterations):
        start = np.array(astuple(best))
        move = rng.standard_normal(len(start)) * (rng.random(len(start)) < 0.35) * scale
        trial = start * np.exp(move)
        trial[-4:] = [*trial[-4:-2], start[-2], start[-1]]  # how bad the search is comes from the nastiness
        trial[[7, 8, 9]] = np.maximum(trial[[7, 8, 9]], 1.0)
        candidate = with_values(best, trial)
        now = loss(fit, candidate)
        if now < value:
            best, value = candidate, now
        scale = 0.35 * 0.2 ** (iteration / arguments.iterations)
    real = nastiness(rows, rows.conv_us.to_numpy())
    tried = []
    for noise in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        for offered in (0.3, 0.45, 0.6, 0.8, 0.95):
            candidate = with_values(best, np.array([*astuple(best)[:-2], noise, offered]))
            alike = nastiness(rows, predict(rows, candidate))
            tried.append(
                (sum(abs(np.sqrt(alike[k]) - np.sqrt(real[k])) for k in list(real)[1:]), noise, offered)
            )
    _, noise, offered = min(tried)
    best = with_values(best, np.array([*astuple(best)[:-2], noise, offered]))
    error = np.abs(np.log(predict(rows, best)) - np.log(rows.conv_us.to_numpy()))
    dense = rows.dense.to_numpy()
    report = {
        "parameters": {k: float(f"{v:.4g}") for k, v in asdict(best).items()},
        "rows": len(rows),
        "median_error": float(np.median(error)),
        "median_error_dense": float(np.median(error[dense])),
        "measured": real,
        "model": nastiness(rows, predict(rows, best)),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
