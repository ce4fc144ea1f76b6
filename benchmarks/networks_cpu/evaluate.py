"""Judge sums and corrections on the networks that measure.py timed, one family left out at a time.

    python benchmarks/networks_cpu/evaluate.py [--regressor MODULE:CLASS] [--table TABLE]

Reads table.parquet and networks.csv (of an unfinished run also its journal) and writes results.csv (one line a
network and method) and summary.json. A method is fitted on the other families' networks; the interval of a
network comes from the errors that the same method makes on each of those families when it is left out too
(``FamilyConformal``). Coverage is also judged for networks of known families ("known"): each is left out alone, and its
interval comes from the errors of the others left out alone. What a network takes is what the table quotes, the
fastest confirmed reading ("quoted"), or where readings.csv has others the median of all ("median").
Rows of convolutions are judged by 5-fold cross-validation, and the sums of networks from rows so predicted.
``--regressor`` names a class with ``fit(columns, latency_us)``, which returns what has ``predict(columns)``;
without it boosted trees on the logarithms of the sizes stand in.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from corrections import FITS
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.conformal import FamilyConformal
from latency_model.corrections import (
    TimedNetwork,
    leave_families_out,
    leave_networks_out,
    part_of,
    predicted_us,
)
from latency_model.environment import Environment
from latency_model.ops import Config, parse_config
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from profiler.journal import Journal, journal_path

sys.path.append(str(Path(__file__).parents[2]))  # the repository's root

from benchmarks.common import write_lines

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
    table: LatencyTable,
    facts: Mapping[str, Mapping[str, str]],
    prices: Mapping[Config, float],
    measured: Mapping[str, float],
) -> list[TimedNetwork]:
    """Return the timed networks, their rows priced by ``prices``."""
    return [
        TimedNetwork(
            row.name,
            facts[row.name]["family"],
            measured[row.name],
            row.shapes,
            tuple(prices.get(shape) for shape in row.shapes),
        )
        for row in table.networks
    ]


def references(path: Path, table: LatencyTable) -> dict[str, dict[str, float]]:
    """Return what the networks are taken to need: what the table quotes, and the median of all readings."""
    quoted = {row.name: row.measurement.latency_us for row in table.networks}
    if not path.is_file():
        return {"quoted": quoted}
    seen = {name: [value] for name, value in quoted.items()}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["network"] in seen:
                seen[row["network"]].append(float(row["latency_us"]))
    return {"quoted": quoted, "median": {name: float(np.median(values)) for name, values in seen.items()}}


def left_out(networks: Sequence[TimedNetwork], method: str) -> Array:
    """Return each network's prediction by ``method`` fitted on the other families."""
    measured = np.array([n.measured_us for n in networks])
    return measured / np.exp(leave_families_out(networks, FITS[method]))


def covered(networks: Sequence[TimedNetwork], method: str, confidence: float) -> tuple[float, float]:
    """Return the share of networks inside intervals made without their family, and the mean half width."""
    hits, widths = [], []
    for family in dict.fromkeys(n.family for n in networks):
        rest = [n for n in networks if n.family != family]
        around = FamilyConformal.fit([n.family for n in rest], leave_families_out(rest, FITS[method]))
        correction = FITS[method](rest)
        for n in (n for n in networks if n.family == family):
            predicted = predicted_us(correction, n)
            low, high = around.interval(predicted, confidence=confidence)
            hits.append(low <= n.measured_us <= high)
            widths.append((high - low) / 2 / predicted)
    return float(np.mean(hits)), float(np.mean(widths))


def covered_in_family(
    networks: Sequence[TimedNetwork], method: str, confidence: float
) -> tuple[float, float, float]:
    """Return the same of networks whose family has others, left out alone, and their mean error, all as shares."""
    ratios = leave_networks_out(networks, FITS[method])
    hits, widths = [], []
    for place, network in enumerate(networks):
        others = [n.family for n in networks if n is not network]
        around = FamilyConformal.fit(others, np.delete(ratios, place))
        predicted = network.measured_us / np.exp(ratios[place])
        low, high = around.interval(predicted, network.family, confidence)
        hits.append(low <= network.measured_us <= high)
        widths.append((high - low) / 2 / predicted)
    return float(np.mean(hits)), float(np.mean(widths)), float(np.abs(np.expm1(-ratios)).mean())


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
    for reference, measured in references(options.table.parent / "readings.csv", table).items():
        for source, prices in sources.items():
            networks = networks_of(table, facts, prices, measured)
            found = judge_networks(networks, source, reference, lines)
            summary[f"{source}, networks, {reference}"] = found
    _print_repeats(options.table.parent / "readings.csv", table, summary)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    write_lines(options.out / "results.csv", lines)


def judge_networks(
    networks: list[TimedNetwork], source: str, reference: str, lines: list[dict[str, object]]
) -> dict[str, Any]:
    """Return and print the figures of every method, and add a line for each network to ``lines``."""
    figures: dict[str, Any] = {"unpriced operators": sum(n.rows_us.count(None) for n in networks)}
    measured = np.array([n.measured_us for n in networks])
    families = np.array([n.family for n in networks])
    for method in FITS:
        predicted = left_out(networks, method)
        found: dict[str, Any] = judge(predicted, measured)
        if len(set(families)) > 2:
            share, width = covered(networks, method, 0.9)
            found |= {"covered_90": round(100 * share, 1), "half_width_90": round(100 * width, 1)}
            share, width, error = covered_in_family(networks, method, 0.9)
            found |= {"covered_90_known": round(100 * share, 1), "half_width_90_known": round(100 * width, 1)}
            found["mape_known"] = round(100 * error, 2)
        found["families"] = {
            family: judge(predicted[families == family], measured[families == family])
            for family in dict.fromkeys(families.tolist())
        }
        figures[method] = found
        print(f"{source}, {reference}, {method:17}", {k: v for k, v in found.items() if k != "families"})
        for family, each in found["families"].items():
            print(f"    {family:18} {each}")
        lines += [
            {
                "rows": source,
                "reference": reference,
                "method": method,
                "network": n.name,
                "family": n.family,
                "measured_us": round(n.measured_us, 2),
                "raw_sum_us": round(n.sum_us, 2),
                "predicted_us": round(float(value), 2),
                "error_percent": round(100 * (float(value) / n.measured_us - 1), 2),
                "unpriced": n.rows_us.count(None),
            }
            for n, value in zip(networks, predicted, strict=True)
        ]
    figures["fitted on all"] = FITS["terms"](networks).to_json()
    return figures


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
