"""Convolutions of the table that were not measured: 5 folds of its rows, by the regression that ships.

    python benchmarks/networks_cpu/unseen.py

No kernel names and no drift: the rows of a CPU. Prints and writes unseen.csv beside this file: errors of all rows, of
aligned and unaligned channels (multiples of 8 on both sides), by kind and by latency; and how far the second
reading of the same rows is from the first, which no prediction can beat.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

from latency_model.columns import ConvColumns
from latency_model.regression.regressor import RowRegressor
from latency_model.table import LatencyTable

sys.path.append(str(Path(__file__).parents[2]))  # the repository's root

from benchmarks.common import commit

HERE = Path(__file__).parent


def judged(what: str, predicted: np.ndarray, measured: np.ndarray) -> dict[str, object]:
    """Return one line of the result, errors in per cent."""
    error = predicted / measured - 1
    size = np.abs(error)
    return {
        "what": what,
        "rows": len(size),
        "mape": round(100 * size.mean(), 2),
        "median": round(100 * float(np.median(size)), 2),
        "within_5": round(100 * (size <= 0.05).mean(), 1),
        "within_10": round(100 * (size <= 0.1).mean(), 1),
        "signed": round(100 * error.mean(), 2),
        "sum": round(100 * (predicted.sum() / measured.sum() - 1), 2),
    }


def main() -> None:
    """Run the benchmark."""
    table = LatencyTable.load(HERE / "table.parquet")
    columns = ConvColumns.of(list(table))
    measured = np.array([row.latency_us for row in table.values()])
    predicted = np.empty(len(measured))
    for train, test in KFold(5, shuffle=True, random_state=0).split(measured):
        # The rows of a table are sorted: their order says nothing of time.
        place = np.full(len(train), 0.5)
        model = RowRegressor.fit(columns.take(train), measured[train], place=place)
        predicted[test] = model.predict(columns.take(test))
    aligned = (columns.in_channels % 8 == 0) & (columns.out_channels % 8 == 0)
    depthwise = (columns.groups > 1) & (columns.groups == columns.in_channels)
    grouped = (columns.groups > 1) & ~depthwise
    parts = {
        "all": np.ones(len(measured), bool),
        "aligned": aligned,
        "unaligned": ~aligned,
        "dense": columns.groups == 1,
        "depthwise": depthwise,
        "grouped": grouped,
        "above 1 us": measured >= 1,
        "below 1 us": measured < 1,
        "below 5 us": measured < 5,
        "5 to 20 us": (measured >= 5) & (measured < 20),
        "20 to 100 us": (measured >= 20) & (measured < 100),
        "above 100 us": measured >= 100,
    }
    lines = [judged(what, predicted[part], measured[part]) for what, part in parts.items()]
    rows = pd.read_csv(HERE / "rows.csv")
    texts = rows.readings_us[~rows.config.str.startswith("op ")]
    readings = np.array([[float(us) for us in text.split(";")[:2]] for text in texts if ";" in text])
    lines.append(judged("second reading against the first", readings[:, 1], readings[:, 0]))
    frame = pd.DataFrame(lines).assign(commit=commit())
    print(frame.to_string(index=False))
    frame.to_csv(HERE / "unseen.csv", index=False)


if __name__ == "__main__":
    main()
