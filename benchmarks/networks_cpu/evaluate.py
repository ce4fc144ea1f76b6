"""Judge sums and corrections on the networks that measure.py timed, one family left out at a time.

    python benchmarks/networks_cpu/evaluate.py [--regressor MODULE:CLASS] [--table TABLE]

Reads table.parquet and networks.csv (of an unfinished run also its journal) and writes results.csv (one line a
network and method) and summary.json. A method is fitted on the other families' networks; the interval of a
network comes from the errors that the same method makes on each of those families when it is left out too.
Rows of convolutions are judged by 5-fold cross-validation, and the sums of networks from rows so predicted.
``--regressor`` names a class with ``fit(columns, latency_us)``, which returns what has ``predict(columns)``;
without it boosted trees on the logarithms of the sizes stand in.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corrections import FITS, Network, network, part_of
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.environment import Environment
from latency_model.ops import Config, parse_config
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from profiler.journal import Journal, journal_path

HERE = Path(__file__).parent
_FOLDS = 5
Array = NDArray[np.float64]


class Trees:
    """Boosted trees on the logarithms of the sizes: a stand-in for the regression of the latency model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def fit(cls, columns: ConvColumns, latency_us: Array) -> Trees:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            max_iter=600, learning_rate=0.06, max_leaf_nodes=24, random_state=0
        )
        return cls(model.fit(_features(columns), np.log(latency_us)))

    def predict(self, columns: ConvColumns) -> Array:
        return np.exp(self._model.predict(_features(columns)))


def _features(c: ConvColumns) -> Array:
    kernel, stride = c.each("kernel", 0) * c.each("kernel", 1), c.each("stride", 0)
    out = c.batch * c.out_height * c.out_width
    weights = c.out_channels * (c.in_channels // c.groups) * kernel
    pattern = np.array([sorted({k.pattern for k in c.kinds}).index(k.pattern) for k in c.kinds])[c.kind]
    sizes = [c.batch, c.in_channels, c.out_channels, c.height, c.groups, kernel, stride, out, weights]
    sizes += [out * weights, c.batch * c.in_channels * c.height * c.width, out * c.out_channels]
    rest = [c.in_channels % m for m in (4, 8, 16)] + [c.out_channels % m for m in (4, 8, 16)]
    return np.column_stack([*(np.log(size) for size in sizes), *rest, pattern]).astype(float)


def load(path: Path) -> LatencyTable:
    """Return the table, and with it what an unfinished run has in its journal."""
    table = LatencyTable.load(path) if path.is_file() else None
    journal = journal_path(path)
    if not journal.is_file():
        assert table is not None, f"there is no {path}"
        return table
    with tempfile.TemporaryDirectory() as folder:
        # Of a copy: the journal of a run that goes on is locked.
        copy = Path(folder) / journal.name
        copy.write_bytes(journal.read_bytes())
        with Journal(copy, _environment(copy)) as opened:
            more = opened.contents.table()
    return more if table is None else table.merge(more)


def _environment(journal: Path) -> Environment:
    with journal.open("rb") as stream:
        return Environment.from_json(json.loads(stream.readline())["environment"])


def median_readings(path: Path) -> dict[Config, float]:
    """Return the median of each row's readings, of two their mean, where it is positive."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [(row["config"], row["readings_us"].split(";")) for row in csv.DictReader(stream)]
    found = {parse_config(config): float(np.median([float(v) for v in values])) for config, values in rows}
    return {config: value for config, value in found.items() if value > 0}


def networks_of(
    table: LatencyTable, facts: Mapping[str, Mapping[str, str]], prices: Mapping[Config, float]
) -> list[Network]:
    """Return the timed networks, their rows priced by ``prices``."""
    found = []
    for row in table.networks:
        others = json.loads(facts[row.name]["others"] or "{}")
        each = network(row.name, facts[row.name]["family"], row.measurement.latency_us, row.shapes, prices)
        found.append(
            Network(**{**each.__dict__, "unpriced": each.unpriced + sum(others.values())}) if others else each
        )
    return found


def left_out(networks: Sequence[Network], method: str) -> dict[str, float]:
    """Return each network's prediction by ``method`` fitted on the other families."""
    found = {}
    for family in {n.family for n in networks}:
        predict = FITS[method]([n for n in networks if n.family != family])
        found |= {n.name: predict(n) for n in networks if n.family == family}
    return found


def covered(networks: Sequence[Network], method: str, confidence: float) -> float:
    """Return the share of networks inside intervals made without their family."""
    hits = []
    for family in sorted({n.family for n in networks}):
        rest = [n for n in networks if n.family != family]
        inner = left_out(rest, method)
        # Each family counts as much as any other, however many networks it has.
        errors = np.array([abs(np.log(inner[n.name] / n.measured_us)) for n in rest])
        weights = np.array([1.0 / sum(m.family == n.family for m in rest) for n in rest])
        half = _quantile(errors, weights, confidence)
        predict = FITS[method](rest)
        hits += [abs(np.log(predict(n) / n.measured_us)) <= half for n in networks if n.family == family]
    return float(np.mean(hits))


def _quantile(values: Array, weights: Array, share: float) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order]) / weights.sum()
    return float(values[order][min(int(np.searchsorted(total, share)), len(values) - 1)])


def judge(predicted: Iterable[float], measured: Iterable[float]) -> dict[str, float]:
    """Return mean error and mean signed error in percent, and the shares within 5 and 10 %."""
    p, m = np.array(list(predicted)), np.array(list(measured))
    error = p / m - 1.0
    return {
        "count": len(m),
        "mape": round(100 * float(np.abs(error).mean()), 2),
        "mean_signed": round(100 * float(error.mean()), 2),
        "within_5": round(100 * float((np.abs(error) <= 0.05).mean()), 1),
        "within_10": round(100 * float((np.abs(error) <= 0.10).mean()), 1),
        "worst": round(100 * float(np.abs(error).max()), 1),
    }


def out_of_fold(shapes: Sequence[ConvShape], latency_us: Array, regressor: Any, seed: int = 0) -> Array:
    """Return the prediction of each row by a model that was fitted on the other folds."""
    columns, fold = ConvColumns.of(shapes), np.random.default_rng(seed).permutation(len(shapes)) % _FOLDS
    predicted = np.empty(len(shapes))
    for number in range(_FOLDS):
        fitted = regressor.fit(columns.take(fold != number), latency_us[fold != number])
        predicted[fold == number] = fitted.predict(columns.take(fold == number))
    return predicted


def judge_rows(table: LatencyTable, regressor: Any) -> tuple[dict[str, Any], dict[Config, float]]:
    """Return the figures of unseen convolutions, all and by kind, and the predictions."""
    shapes = [shape for shape, row in table.items() if "unstable" not in row.flags]
    latency = np.array([table[shape].latency_us for shape in shapes])
    predicted = out_of_fold(shapes, latency, regressor)
    aligned = np.array([s.in_channels % 8 == 0 and s.out_channels % 8 == 0 for s in shapes])
    part = np.array([part_of(shape) for shape in shapes])
    masks = {"all": aligned | True, "aligned": aligned, "unaligned": ~aligned}
    masks |= {name: part == name for name in sorted(set(part.tolist()))}
    figures = {name: judge(predicted[mask], latency[mask]) for name, mask in masks.items() if mask.any()}
    return figures, dict(zip(shapes, predicted.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=HERE / "table.parquet")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--regressor", help="such as latency_model.regression:RowRegressor")
    parser.add_argument("--no-rows", action="store_true", help="judge only networks")
    options = parser.parse_args()
    table = load(options.table)
    with (options.table.parent / "networks.csv").open(newline="", encoding="utf-8") as stream:
        facts = {row["network"]: row for row in csv.DictReader(stream)}
    exact: dict[Config, float] = {c: r.latency_us for rows in (table, table.ops) for c, r in rows.items()}
    summary: dict[str, Any] = {"rows": len(table), "ops": len(table.ops), "failures": len(table.failures)}
    sources = {"exact rows": exact}
    if (path := options.table.parent / "rows.csv").is_file():
        sources["median readings"] = {**exact, **median_readings(path)}
    if not options.no_rows:
        regressor: Any = Trees
        if options.regressor:
            module, _, name = options.regressor.partition(":")
            regressor = getattr(importlib.import_module(module), name)
        summary["unseen rows"], predicted = judge_rows(table, regressor)
        for name, figures in summary["unseen rows"].items():
            print(f"unseen rows, {name:10} {figures}")
        sources["unseen rows"] = {**exact, **predicted}
    lines: list[dict[str, object]] = []
    for source, prices in sources.items():
        networks = networks_of(table, facts, prices)
        summary[source + ", networks"] = judge_networks(networks, source, lines)
    _print_repeats(options.table.parent / "readings.csv", table, summary)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    with (options.out / "results.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def judge_networks(networks: list[Network], source: str, lines: list[dict[str, object]]) -> dict[str, Any]:
    """Return and print the figures of every method, and add a line for each network to ``lines``."""
    figures: dict[str, Any] = {"unpriced operators": sum(n.unpriced for n in networks)}
    several = len({n.family for n in networks}) > 2
    for method in FITS:
        predicted = left_out(networks, method)
        found: dict[str, Any] = judge(
            predicted.values(), (n.measured_us for n in networks_in(predicted, networks))
        )
        if several:
            found["covered_90"] = round(100 * covered(networks, method, 0.9), 1)
        found["families"] = {
            family: judge(
                [predicted[n.name] for n in networks if n.family == family],
                [n.measured_us for n in networks if n.family == family],
            )
            for family in dict.fromkeys(n.family for n in networks)
        }
        figures[method] = found
        print(f"{source}, {method:17}", {k: v for k, v in found.items() if k != "families"})
        for family, each in found["families"].items():
            print(f"    {family:18} {each}")
        lines += [
            {
                "rows": source,
                "method": method,
                "network": n.name,
                "family": n.family,
                "measured_us": round(n.measured_us, 2),
                "raw_sum_us": round(n.raw_us, 2),
                "predicted_us": round(predicted[n.name], 2),
                "error_percent": round(100 * (predicted[n.name] / n.measured_us - 1), 2),
                "unpriced": n.unpriced,
            }
            for n in networks
        ]
    return figures


def networks_in(predicted: Mapping[str, float], networks: Sequence[Network]) -> list[Network]:
    """Return ``networks`` in the order of ``predicted``."""
    by_name = {n.name: n for n in networks}
    return [by_name[name] for name in predicted]


def _print_repeats(path: Path, table: LatencyTable, summary: dict[str, Any]) -> None:
    """Print how far the readings before and after everything are from what the table quotes."""
    if not path.is_file():
        return
    quoted = {row.name: row.measurement.latency_us for row in table.networks}
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["network"] in quoted]
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
        found = judge((float(row["latency_us"]) for row in mine), (quoted[row["network"]] for row in mine))
        summary[f"reading at the {stage} against the table"] = found
        print(f"reading at the {stage} against the table", found)


if __name__ == "__main__":
    main()
