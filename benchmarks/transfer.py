"""Errors of a new device described by another one and few rows of its own, on the NeuSight convolutions.

    python benchmarks/transfer.py --data ../shared/data/neusight_conv --out benchmarks/transfer.csv

Pairs of A100, V100 and T4; N rows of the new device drawn at random, with the names of their kernels and their
places in the file; judged on all its other rows. Columns: the mean absolute percentage error on the latencies as
they are in the file (``raw``) and without the delay that grows along the file (``clean``: as found by a regression of
all rows); ratios to a regression of 80 % of the new device's rows, judged on the other 20 %; the share of rows in the
90 % interval (of ``clean``). Baselines: one factor; for each structure an affine function of the logarithm of the
known device's prediction; gradient boosting on the samples alone. Fitted regressions are kept beside ``--cache``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from common import write_lines

from latency_model.files import write_json
from latency_model.regression.drift import added_us
from latency_model.regression.features import features
from latency_model.regression.geometry import Geometry
from latency_model.regression.regressor import RowRegressor
from latency_model.regression.state import restored, state
from latency_model.rows import RowSet, read_rows
from latency_model.transfer import processors_of, transfer

FILES = {"A100": "a100_80gb_pcie", "V100": "v100_pcie_32gb", "T4": "t4"}
PAIRS = (("V100", "T4"), ("A100", "V100"), ("A100", "T4"), ("T4", "A100"), ("T4", "V100"), ("V100", "A100"))


def fitted(rows: RowSet, keep: np.ndarray, path: Path) -> RowRegressor:
    """Return the regression of the rows ``keep``, from ``path`` when it was fitted before."""
    described, arrays = path.with_suffix(".json"), path.with_suffix(".npz")
    if described.exists() and arrays.exists():
        with np.load(arrays, allow_pickle=False) as held:
            return restored(json.loads(described.read_text()), {name: held[name] for name in held.files})
    place = np.linspace(0.0, 1.0, len(rows))
    kernels = [str(name) for name in rows.main_kernels]
    made = RowRegressor.fit(
        rows.columns.take(keep),
        rows.latency_us[keep],
        kernels=[kernels[row] for row in keep],
        place=place[keep],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    data, held = state(made)
    np.savez(arrays, **held)
    write_json(described, data)
    return made


def error(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Return the mean absolute error relative to what was measured."""
    return float(np.mean(np.abs(predicted / measured - 1.0)))


def affine(few: np.ndarray, latency: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the affine function of the known device's logarithms; the rows have one structure only."""
    middle = few.mean()
    design = np.column_stack([np.ones(len(few)), few - middle])
    found = np.linalg.lstsq(design, np.log(latency), rcond=None)[0]
    return np.exp(found[0] + found[1] * (other - middle))


def boosted(seen: np.ndarray, latency: np.ndarray, other: np.ndarray, seed: int) -> np.ndarray:
    """Return what gradient boosting on the samples alone predicts."""
    from sklearn.ensemble import GradientBoostingRegressor

    trees = GradientBoostingRegressor(n_estimators=300, learning_rate=0.05, subsample=0.7, random_state=seed)
    return np.exp(trees.fit(seen, np.log(latency)).predict(other))


def main() -> None:
    """Run all pairs, sizes and seeds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the three files")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/transfer.csv"))
    parser.add_argument("--cache", type=Path, default=Path(".transfer_cache"))
    parser.add_argument("--samples", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=len(PAIRS), help="how many of the pairs")
    parser.add_argument("--no-names", action="store_true", help="neither kernels nor the device are named")
    options = parser.parse_args()
    rows = {name: read_rows(options.data / f"{file}.parquet") for name, file in FILES.items()}
    full, clean, bar = {}, {}, {}
    for name, given in rows.items():
        count = len(given)
        place = np.linspace(0.0, 1.0, count)
        full[name] = fitted(given, np.arange(count), options.cache / f"{name}_full")
        clean[name] = given.latency_us - added_us(given.latency_us, full[name].drift_us, place)
        order = np.random.default_rng(0).permutation(count)
        test, train = np.sort(order[: count // 5]), np.sort(order[count // 5 :])
        part, other = fitted(given, train, options.cache / f"{name}_part"), given.columns.take(test)
        bar[name] = (
            error(part.predict(other), given.latency_us[test]),
            error(part.predict(other, without_drift=True), clean[name][test]),
        )
        print(f"{name} fitted on 80 %: raw {bar[name][0]:.2%}, clean {bar[name][1]:.2%}", flush=True)
    lines = []
    for known, new in PAIRS[: options.pairs]:
        given, count = rows[new], len(rows[new])
        seen = features(given.columns, Geometry.of(given.columns))
        there = np.log(full[known].predict(given.columns, without_drift=True))
        place = np.linspace(0.0, 1.0, count)
        for number in options.samples:
            for seed in range(options.seeds):
                few = np.sort(np.random.default_rng(1000 + seed).choice(count, number, replace=False))
                other = np.setdiff1d(np.arange(count), few)
                measured, latency = given.latency_us[other], given.latency_us[few]
                begin = time.perf_counter()
                made = transfer(
                    full[known],
                    given.columns.take(few),
                    latency,
                    kernels=None if options.no_names else [str(given.main_kernels[row]) for row in few],
                    place=place[few],
                    units=None if options.no_names else processors_of(given.device),
                )
                seconds = time.perf_counter() - begin
                asked = given.columns.take(other)
                predicted, low, high = made.interval(asked, without_drift=True)
                drifted, raw_low, raw_high = made.interval(asked)
                sums = made.expected(asked)
                truth = clean[new][other]
                line = {
                    "from": known,
                    "to": new,
                    "samples": number,
                    "seed": seed,
                    "names": not options.no_names,
                    "clean": error(predicted, truth),
                    "raw": error(drifted, measured),
                    "clean_ratio": error(predicted, truth) / bar[new][1],
                    "raw_ratio": error(drifted, measured) / bar[new][0],
                    "bias_of_sum": float(sums.sum() / truth.sum() - 1.0),
                    "within_90": float(np.mean((low <= truth) & (truth <= high))),
                    "raw_within_90": float(np.mean((raw_low <= measured) & (measured <= raw_high))),
                    "drift_us": made.drift_us,
                    "units": made.units,
                    "fit_s": seconds,
                }
                factor = np.exp(np.median(np.log(latency) - there[few]) + there[other])
                baselines = {
                    "one_factor": factor,
                    "affine": affine(there[few], latency, there[other]),
                    "boosting": boosted(seen[few], latency, seen[other], seed),
                }
                for name, values in baselines.items():
                    line[f"{name}_clean"], line[f"{name}_raw"] = error(values, truth), error(values, measured)
                lines.append({k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()})
            mine = [
                line for line in lines if (line["from"], line["to"], line["samples"]) == (known, new, number)
            ]
            names = (
                "clean",
                "raw",
                "clean_ratio",
                "raw_ratio",
                "within_90",
                "raw_within_90",
                "bias_of_sum",
                "one_factor_clean",
                "affine_clean",
            )
            means = {
                name: float(np.mean([line[name] for line in mine])) for name in (*names, "boosting_clean")
            }
            print(
                known,
                new,
                number,
                " ".join(f"{name} {value:.3f}" for name, value in means.items()),
                flush=True,
            )
            write_lines(options.out, lines)


if __name__ == "__main__":
    main()
