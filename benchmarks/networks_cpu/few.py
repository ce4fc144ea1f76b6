"""How many measured networks a correction needs: random choices of a few, judged on the others.

    python benchmarks/networks_cpu/few.py [--table TABLE]

Reads what evaluate.py reads and writes few.csv: for ``networks`` random networks of ``families`` families (300
choices, seed 0) the mean error in percent of the plain sum, of a slope and an offset and of terms, and the error
that nine of ten choices stay below. ``on`` says of which networks: of other families, or the rest of the same one.
``rows`` are all rows, or only those of convolutions.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from evaluate import HERE, Array, load, networks_of

from latency_model.correction import fit_correction
from latency_model.corrections import Caches, TimedNetwork
from latency_model.corrections.fit import _row, _solve
from latency_model.shapes import ConvShape

sys.path.append(str(Path(__file__).parents[2]))  # the repository's root

from benchmarks.common import write_lines

_CHOICES = 300
_OTHERS = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 2), (5, 5), (8, 4), (12, 12))
_SAME = (1, 2, 3, 4)


def judge(networks: Sequence[TimedNetwork], families: Array) -> list[dict[str, object]]:
    """Return a line for every number of networks, on other families and on the same."""
    design = np.array([_row(network, Caches()) for network in networks])
    measured, rng = np.array([n.measured_us for n in networks]), np.random.default_rng(0)
    names = np.unique(families)
    lines = []
    for count, wanted in (*_OTHERS, *((k, 0) for k in _SAME)):
        errors = []
        for _ in range(_CHOICES):
            chosen = rng.choice(names, max(1, wanted), replace=False)
            known = [int(rng.choice(np.flatnonzero(families == name))) for name in chosen]
            pool = np.setdiff1d(np.flatnonzero(np.isin(families, chosen)), known)
            known += rng.choice(pool, count - len(known), replace=False).tolist()
            test = np.setdiff1d(pool, known) if not wanted else np.flatnonzero(~np.isin(families, chosen))
            line = fit_correction(design[known, 0], measured[known])
            predicted = (
                design[test, 0],
                line.slope * design[test, 0] + line.offset_us,
                design[test, 1:] @ _solve(design[known], measured[known]),
            )
            errors.append([100 * np.abs(p / measured[test] - 1).mean() for p in predicted])
        mean, most = np.mean(errors, axis=0), np.quantile(errors, 0.9, axis=0)
        line_of: dict[str, object] = {"networks": count, "families": max(1, wanted)}
        line_of["on"] = "other families" if wanted else "same family"
        for place, name in enumerate(("sum", "slope_and_offset", "terms")):
            line_of |= {name: round(float(mean[place]), 2), f"{name}_p90": round(float(most[place]), 2)}
        lines.append(line_of)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=HERE / "table.parquet")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    table = load(options.table)
    with (options.table.parent / "networks.csv").open(newline="", encoding="utf-8") as stream:
        facts = {row["network"]: row for row in csv.DictReader(stream)}
    measured = {row.name: row.measurement.latency_us for row in table.networks}
    every = {config: row.latency_us for rows in (table, table.ops) for config, row in rows.items()}
    convs = {config: value for config, value in every.items() if isinstance(config, ConvShape)}
    lines = []
    for rows, prices in (("all", every), ("convolutions", convs)):
        networks = networks_of(table, facts, prices, measured)
        families = np.array([network.family for network in networks])
        lines += [{"rows": rows, **line} for line in judge(networks, families)]
    write_lines(options.out / "few.csv", lines)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
