"""What `gharial tables diff` prints and writes of a comparison."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TextIO

from rich.table import Column, Table
from rich.text import Text

from latency_model.compare import REASONS, RowDifference, TableDifference, compare_tables
from latency_model.errors import InputError
from latency_model.files import write_atomic

__all__ = [
    "EXIT_CODE",
    "compare_tables",
    "failing",
    "grid",
    "most_changed",
    "summary_lines",
    "write_csv",
    "write_json",
]

# 1 and 2 are errors; 3 is an answer.
EXIT_CODE = 3
_FAILING = {"slower": {"SLOWER"}, "faster": {"FASTER"}, "changed": {"SLOWER", "FASTER"}}
_ROOMY = 130
_COLOURS = {"FASTER": "green", "SLOWER": "red", "UNCLEAR": "yellow", "SAME": "dim"}


def failing(name: str | None) -> set[str]:
    """Return the verdicts that ``--fail-on NAME`` means; none without a name."""
    if name is None:
        return set()
    if name not in _FAILING:
        raise InputError(f"unknown --fail-on {name!r}; give one of {', '.join(_FAILING)}")
    return _FAILING[name]


def most_changed(found: TableDifference, limit: int) -> list[RowDifference]:
    """Return at most ``limit`` rows: FASTER and SLOWER first, then by the size of the change."""

    def rank(row: RowDifference) -> tuple[bool, float]:
        return row.verdict not in ("FASTER", "SLOWER"), -abs(math.log(row.ratio))

    return sorted(found.rows, key=rank)[:limit]


def grid(rows: Sequence[RowDifference], *, width: int) -> Table:
    """Return rows as a table for ``width`` characters; cycles and kernels only where there is room for them."""
    roomy = width >= _ROOMY
    table = Table(Column("configuration", overflow="fold", min_width=24))
    for name in ("A (us)", "B (us)", "B / A", *(("cycles B / A",) if roomy else ())):
        table.add_column(name, justify="right")
    for name in (*(("kernel",) if roomy else ()), "verdict", "reason"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        cycles = "" if row.cycles_ratio is None else f"{row.cycles_ratio:.3f}"
        kernel = {None: "", True: "another", False: "same"}[row.kernel_changed]
        table.add_row(
            row.config,
            f"{row.first_us:.2f}",
            f"{row.second_us:.2f}",
            f"{row.ratio:.3f}",
            *((cycles, kernel) if roomy else ()),
            Text(row.verdict + "*" * row.stands, style=_COLOURS[row.verdict]),
            row.reason,
        )
    return table


def summary_lines(found: TableDifference) -> Iterator[str]:
    """Yield the counts, the means and what chance alone would give."""
    standing = sum(row.stands for row in found.rows)
    yield ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    yield (
        f"{found.expected_by_chance:.1f} FASTER or SLOWER are to be expected by chance alone; "
        f"{standing} hold for all rows at once (*)"
    )
    for reason, count in found.reasons.items():
        yield f"{count} {reason}: {REASONS[reason]}"
    if found.geometric_mean is not None:
        yield f"geometric mean of B / A: {found.geometric_mean:.4f}; another kernel in {found.kernels_changed} rows"
    yield f"{found.only_first} rows only in A, {found.only_second} only in B"


def write_csv(found: TableDifference, path: Path) -> None:
    """Write every row to ``path``; its ending must be .csv."""
    if path.suffix.lower() != ".csv":
        raise InputError(f"cannot write the differences to {path.name}; its ending must be .csv")

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, [field.name for field in fields(RowDifference)])
            writer.writeheader()
            writer.writerows(map(asdict, found.rows))

    write_atomic(path, write)


def write_json(found: TableDifference, stream: TextIO) -> None:
    """Write the summary and every row to ``stream`` as one JSON document, a row a line."""
    head = json.dumps(found.summary(), allow_nan=False)
    stream.write(head[:-1] + ',\n"rows": [')
    separator = "\n"
    for row in found.rows:
        stream.write(separator + json.dumps(asdict(row), allow_nan=False))
        separator = ",\n"
    stream.write("]}\n")
