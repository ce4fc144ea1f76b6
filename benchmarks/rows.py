"""How well does the regression predict convolutions that it was not fitted on?

    python benchmarks/rows.py ../shared/data

Reads neusight_conv/{v100_pcie_32gb,t4,a100_80gb_pcie}.parquet and h100_probe/rows.parquet under the folder. Five
folds (KFold, shuffled, seed 0): fitted on four, predicted on the fifth, nothing of which is used; names of kernels are
given, if at all, for the fitted rows only. Writes rows.csv beside this file, per data set, with names of kernels and
without:

``raw``         against the labels as they are in the file
``drift_free``  where a drift over the file was found in the fitted rows: against the labels less what it added at each
                row's place, for the prediction for the middle of the run

``mape``, ``median`` are of the relative errors in per cent, ``within_5``, ``within_10`` shares of the rows in per cent,
``bias`` the signed error of the sum of all rows in per cent, ``bias_of_mean`` that of
``RowRegressor.expected``. ``drift_us`` and ``units`` (processors found) are those of
the folds, ``seconds`` the time of all five, on one thread.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import scipy
import sklearn
from common import commit, write_lines
from sklearn.model_selection import KFold

from latency_model.regression.drift import added_us
from latency_model.regression.regressor import RowRegressor
from latency_model.rows import read_rows

FILES = {
    "v100": "neusight_conv/v100_pcie_32gb.parquet",
    "t4": "neusight_conv/t4.parquet",
    "a100": "neusight_conv/a100_80gb_pcie.parquet",
    "h100": "h100_probe/rows.parquet",
}
FOLDS = 5


def main() -> None:
    """Run the folds of every data set and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", nargs="*", default=list(FILES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    found: list[dict[str, object]] = []
    for name in arguments.only:
        for named in (True, False):
            found += of_file(name, arguments.data / FILES[name], named=named)
            write(arguments.out, found)


def of_file(name: str, path: Path, *, named: bool) -> list[dict[str, object]]:
    """Return the lines of one data set."""
    rows = read_rows(path)
    assert rows.latency_us is not None
    latency, columns = rows.latency_us, rows.columns
    place = np.linspace(0.0, 1.0, len(latency))
    raw, middle, mean, clean = np.empty((4, len(latency)))
    drifts, units = [], []
    begin = time.perf_counter()
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(latency):
        names = None
        if named and rows.kernel_names is not None:
            names = rows.kernel_names[train].tolist()
        model = RowRegressor.fit(columns.take(train), latency[train], kernels=names, place=place[train])
        raw[test] = model.predict(columns.take(test))
        middle[test] = model.predict(columns.take(test), without_drift=True)
        mean[test] = model.expected(columns.take(test))
        clean[test] = latency[test] - added_us(latency[test], model.drift_us, place[test])
        drifts.append(round(model.drift_us, 1))
        units.append(model.experts[0].units)
        print(name, named, drifts, units, scores(latency[test], raw[test]), flush=True)
    about = {
        "data": name,
        "kernel_names": named,
        "rows": len(latency),
        "drift_us": " ".join(map(str, drifts)),
        "units": " ".join(map(str, units)),
        "seconds": round(time.perf_counter() - begin),
        "commit": commit(),
        "versions": f"python {platform.python_version()} numpy {np.__version__} scipy {scipy.__version__} "
        f"scikit-learn {sklearn.__version__}",
    }
    lines = [{"labels": "raw"} | scores(latency, raw) | {"bias_of_mean": bias(latency, mean)} | about]
    if any(drifts):
        lines.append(
            {"labels": "drift_free"} | scores(clean, middle) | {"bias_of_mean": bias(clean, mean)} | about
        )
    return lines


def scores(latency_us: np.ndarray, predicted_us: np.ndarray) -> dict[str, float]:
    """Return the errors in per cent."""
    errors = np.abs(predicted_us / latency_us - 1.0)
    return {
        "mape": round(100 * float(errors.mean()), 2),
        "median": round(100 * float(np.median(errors)), 2),
        "within_5": round(100 * float((errors < 0.05).mean()), 1),
        "within_10": round(100 * float((errors < 0.10).mean()), 1),
        "bias": bias(latency_us, predicted_us),
    }


def bias(latency_us: np.ndarray, predicted_us: np.ndarray) -> float:
    """Return the error of the sum in per cent."""
    return round(100 * float((predicted_us - latency_us).sum() / latency_us.sum()), 2)


def write(path: Path, lines: list[dict[str, object]]) -> None:
    """Write the table."""
    first = ["data", "kernel_names", "labels"]
    names = first + [name for name in lines[0] if name not in first]
    write_lines(path, lines, fields=names)


if __name__ == "__main__":
    main()
