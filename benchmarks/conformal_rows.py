"""How often do intervals of single rows hold the latency of rows that nobody fitted or calibrated on?

    python benchmarks/conformal_rows.py ../shared/data/neusight_conv/*.parquet ../shared/data/h100_probe/rows.parquet

Five test folds. Inside each training part, five folds give out-of-fold predictions, which calibrate the intervals of a
model of the whole training part (or of the five models, for CV+); the test rows are used once, at the end.
``--regressor package.module:Class`` puts another regressor to the test: ``Class().fit(columns, latency_us)`` returns an
object with ``predict(columns)`` in microseconds and ``spread(columns)``, relative. The default is a stand-in of
boosted trees on the logarithms of sizes. Writes conformal_rows.csv beside this file, per data set and method:

plain           one distance for all rows
spread          distances in units of the regressor's spread
spread+size     the same, calibrated for each quarter decade of the prediction that has 150 rows
cv+             as ``spread``, from the models of the folds

``coverage`` and ``width`` (mean of (high - low) / predicted), over all rows and over quarters of the rows by predicted
latency (``size`` 1 the smallest); ``median_width`` likewise. ``rho_kernel`` is the correlation of errors of two rows
that ran the same kernels, ``rho_kind`` of two rows of one kernel size and stride (empty where there is one kind).
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import numpy as np
import pandas as pd
from common import write_lines
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold

from latency_model.columns import ConvColumns, Kind
from latency_model.conformal import Conformal, cv_plus, row_correlation, size_class

FOLDS = 5


class StandIn:
    """Boosted trees on log sizes, and on how far left-out halves were off: only as good as a test needs."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def fit(self, columns: ConvColumns, latency_us: np.ndarray) -> StandIn:
        """Return the fitted regressor."""
        features, target = _features(columns), np.log(latency_us)
        off = np.empty(len(target))
        for train, test in KFold(2, shuffle=True, random_state=self.seed).split(features):
            off[test] = np.abs(
                target[test] - self._trees().fit(features[train], target[train]).predict(features[test])
            )
        self.centre = self._trees().fit(features, target)
        self.error = self._trees(max_iter=60, min_samples_leaf=40).fit(features, np.log(off + 1e-3))
        return self

    def _trees(self, **options) -> HistGradientBoostingRegressor:
        chosen = {"max_iter": 200, "learning_rate": 0.1, "random_state": self.seed} | options
        return HistGradientBoostingRegressor(**chosen)

    def predict(self, columns: ConvColumns) -> np.ndarray:
        """Return microseconds."""
        return np.exp(self.centre.predict(_features(columns)))

    def spread(self, columns: ConvColumns) -> np.ndarray:
        """Return how far off a prediction is expected to be, relative."""
        return np.exp(self.error.predict(_features(columns)))


def _features(c: ConvColumns) -> np.ndarray:
    sizes = [
        c.batch,
        c.in_channels,
        c.out_channels,
        c.height,
        c.groups,
        c.each("kernel", 0),
        c.each("stride", 0),
    ]
    logs = np.log(np.stack(sizes, axis=1))
    pixels = np.log(c.batch * c.out_height * c.out_width)
    macs = pixels + logs[:, 1] + logs[:, 2] - logs[:, 4] + 2 * logs[:, 5]
    rest = [channels % step for channels in (c.in_channels, c.out_channels) for step in (8, 32)]
    return np.column_stack([logs, pixels, macs, *rest])


def read(path: Path) -> tuple[ConvColumns, np.ndarray, np.ndarray]:
    """Return the convolutions of a file of rows, their microseconds and the names of their kernels."""
    data = pd.read_parquet(path)
    latency = data["conv_us"] if "conv_us" in data else 1000 * data["latency_ms"]
    groups = data["groups"] if "groups" in data else pd.Series(1, index=data.index)
    kinds, codes = np.unique(data[["kernel_size", "stride"]].to_numpy(), axis=0, return_inverse=True)
    columns = ConvColumns(
        batch=data.batch.to_numpy(),
        in_channels=data.in_channels.to_numpy(),
        height=data.height.to_numpy(),
        width=data.height.to_numpy(),
        out_channels=data.out_channels.to_numpy(),
        groups=groups.to_numpy(),
        kind=np.asarray(codes, dtype=np.int64),
        kinds=tuple(Kind(kernel=(k, k), stride=(s, s), padding=(k // 2,) * 4) for k, s in kinds.tolist()),
    )
    kernels = data["conv_kernel_names" if "conv_kernel_names" in data else "kernel_name"]
    return columns, latency.to_numpy(dtype=float), kernels.to_numpy(dtype=str)


def ends(make, columns, latency, train, test, seed, confidences):
    """Return predictions of the test rows, and per (method, confidence) their (low, high)."""
    model = make().fit(columns.take(train), latency[train])
    predicted, spread = model.predict(columns.take(test)), model.spread(columns.take(test))
    out, off, fold = np.empty(len(train)), np.empty(len(train)), np.empty(len(train), dtype=np.int64)
    new = np.empty((2, FOLDS, len(test)))
    for place, (fit, left) in enumerate(KFold(FOLDS, shuffle=True, random_state=seed + 1).split(train)):
        part = make().fit(columns.take(train[fit]), latency[train[fit]])
        left_out = columns.take(train[left])
        out[left], off[left], fold[left] = part.predict(left_out), part.spread(left_out), place
        new[:, place] = part.predict(columns.take(test)), part.spread(columns.take(test))
    known = latency[train]
    fitted = {
        "plain": (Conformal.fit(known, out), (predicted,)),
        "spread": (Conformal.fit(known, out, off), (predicted, spread)),
        "spread+size": (
            Conformal.fit(known, out, off, size_class(out)),
            (predicted, spread, size_class(predicted)),
        ),
    }
    found = {}
    for confidence in confidences:
        for method, (conformal, given) in fitted.items():
            found[method, confidence] = conformal.interval(*given, confidence=confidence)
        scores = np.log(known / out) / off
        found["cv+", confidence] = cv_plus(new[0], scores, fold, new[1], confidence=confidence)
    return predicted, found


def main() -> None:
    """Judge the intervals on every file and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--regressor", default=None, metavar="MODULE:CLASS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    make = StandIn
    if options.regressor:
        module, _, name = options.regressor.partition(":")
        make = getattr(importlib.import_module(module), name)
    table = []
    for path in options.rows:
        columns, latency, kernels = read(path)
        predicted = np.empty(len(latency))
        low: dict = {}
        high: dict = {}
        for train, test in KFold(FOLDS, shuffle=True, random_state=options.seed).split(latency):
            predicted[test], found = ends(make, columns, latency, train, test, options.seed, (0.9, 0.95))
            for key, (below, above) in found.items():
                low.setdefault(key, np.empty(len(latency)))[test] = below
                high.setdefault(key, np.empty(len(latency)))[test] = above
        size = 1 + np.digitize(predicted, np.quantile(predicted, (0.25, 0.5, 0.75)))
        name = "h100_probe" if path.stem == "rows" else path.stem
        error = np.abs(predicted / latency - 1)
        print(
            f"{name}: {len(latency)} rows, MAPE {error.mean():.2%}, within 10 % {np.mean(error <= 0.1):.1%}"
        )
        score = np.log(latency / predicted)
        rho = {"rho_kernel": f"{row_correlation(score, kernels):.3f}", "rho_kind": ""}
        if len(columns.kinds) > 1:
            rho["rho_kind"] = f"{row_correlation(score, columns.kind.astype(str)):.3f}"
        print("  ", rho)
        for (method, confidence), below in low.items():
            above = high[method, confidence]
            for which in ("all", 1, 2, 3, 4):
                mask = np.full(len(latency), True) if which == "all" else size == which
                held = (below[mask] <= latency[mask]) & (latency[mask] <= above[mask])
                width = (above[mask] - below[mask]) / predicted[mask]
                table.append(
                    {
                        "data": name,
                        "regressor": options.regressor or "stand-in",
                        "method": method,
                        "confidence": confidence,
                        "size": which,
                        "rows": int(mask.sum()),
                        "coverage": round(float(held.mean()), 4),
                        "width": round(float(width.mean()), 4),
                        "median_width": round(float(np.median(width)), 4),
                        "mape": round(float(error[mask].mean()), 4),
                        **rho,
                        "seed": options.seed,
                    }
                )
                if which == "all":
                    print(
                        f"  {method} {confidence:.0%}: {held.mean():.1%}, width {width.mean():.3f}",
                        flush=True,
                    )
    write_lines(options.out, table)


if __name__ == "__main__":
    main()
