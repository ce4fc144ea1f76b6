"""The command `gharial transfer`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latency_model import console
from latency_model.errors import InputError
from latency_model.tables_cli import AsJson

if TYPE_CHECKING:
    from latency_model.rows import RowSet
    from latency_model.table import LatencyTable
    from latency_model.transfer import TransferredTable

__all__ = ["transfer"]


def transfer(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="ROWS", help="Rows of a device that is known well: .parquet or .csv, with latencies."
        ),
    ],
    samples: Annotated[
        Path, typer.Option(metavar="ROWS", help="A hundred or so rows of the new device, with latencies.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="TABLE", help="The new device's table: .parquet, or .csv to look at.")
    ],
    wanted: Annotated[
        Path | None,
        typer.Option(
            "--rows",
            metavar="ROWS",
            help="Predict these convolutions.",
            show_default="those of the known device",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The new device's name, if the samples' file does not say."),
    ] = None,
    units: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processors of the new device (streaming multiprocessors of a GPU).",
            show_default="by its name, else found from the samples",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="How often an interval shall hold, like 0.9.")] = 0.9,
    json: AsJson = False,
) -> None:
    """Predict a new device's table from that of another one and a few measurements."""
    from latency_model.exports import export
    from latency_model.rows import read_rows
    from latency_model.transfer import transfer_table

    if not 0 < confidence < 1:
        raise InputError(f"a confidence lies between 0 and 1, not at {confidence}; use 0.9 for 90 %")
    known, few = read_rows(source), read_rows(samples)
    few = few if device is None else few.of_device(device)
    asked = known if wanted is None else read_rows(wanted, latency="optional", defaults=known.defaults)
    found = transfer_table(known, few, wanted=asked.columns, confidence=confidence, units=units)
    table = _table(found, few, source)
    if out.suffix == ".parquet":
        table.save(out)
    else:
        export(table, out)
    counts = dict(sorted(Counter(found.source).items()))
    if json:
        console.print_json(
            {
                "out": str(out),
                "rows": len(table),
                "samples": len(few),
                "sources": counts,
                "confidence": confidence,
                "notes": [*known.notes, *few.notes],
            }
        )
        return
    kinds = ", ".join(f"{count} {name}" for name, count in counts.items())
    console.out.print(f"{len(table)} rows in {out}: {kinds}", highlight=False, soft_wrap=True)
    for note in (*known.notes, *few.notes):
        console.out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _table(found: TransferredTable, samples: RowSet, source: Path) -> LatencyTable:
    """Return the prediction as a table of the samples' device; what was not measured has a flag that says so."""
    from latency_model.environment import Environment
    from latency_model.measurement import Measurement
    from latency_model.table import LatencyTable

    rows = {}
    columns = (found.predicted_us.tolist(), found.low_us.tolist(), found.high_us.tolist(), found.source)
    for shape, latency, low, high, how in zip(found.columns, *columns, strict=True):
        low, high = min(low, latency), max(high, latency)
        row = Measurement(latency, low, high, low, latency, latency, high, low, 1, "given")
        if how != "measured":
            note = f"predicted from {source.name} and {len(samples)} measurements, not measured"
            row = dataclasses.replace(row, flags=(how,), note=note)
        rows[shape] = row
    return LatencyTable(Environment(samples.device or "unknown device", "unknown", "unknown", ""), rows)
