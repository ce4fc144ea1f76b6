"""Commands that look at tables: `gharial tables …`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from latency_model import console
from latency_model.errors import TableError
from latency_model.shipped import find_table, shipped_tables
from latency_model.table import LatencyTable

if TYPE_CHECKING:
    from latency_model.shapes import ConvShape

__all__ = ["AsJson", "tables"]

tables = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Look at latency tables.")

TablePath = Annotated[
    str, typer.Argument(metavar="TABLE", help="A latency table (.parquet), or the name of one that ships.")
]
FirstTable = Annotated[str, typer.Argument(metavar="A", help="A table, as a file or by its name.")]
SecondTable = Annotated[str, typer.Argument(metavar="B", help="Another one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
SiteText = Annotated[
    str | None,
    typer.Option(help="Only rows whose text holds this, like 'k3 s1' or '8x8'; all words must occur."),
]


def _matching(table: LatencyTable, site: str | None) -> list[ConvShape]:
    words = (site or "").split()
    return [shape for shape in sorted(table) if all(word in shape.text for word in words)]


def _wrote(out: Path, rows: int, *, json: bool) -> None:
    if json:
        console.print_json({"out": str(out), "rows": rows})
    else:
        console.err.print(f"wrote {rows} rows to {out}", highlight=False, soft_wrap=True)


@tables.command(name="list", epilog="Example: gharial tables list --json")
def list_shipped(json: AsJson = False) -> None:
    """List the tables that ship with Gharial; every command takes one by its name."""
    rows = []
    for path in shipped_tables():
        loaded = LatencyTable.load(path)
        rows.append(
            {
                "name": path.stem,
                "path": str(path),
                "environment": loaded.environment.to_json(),
                "rows": len(loaded),
                "networks": [network.name for network in loaded.networks],
            }
        )
        if not json:
            console.out.print(Text(path.stem, style="bold"), soft_wrap=True)
            console.out.print(f"  {path}", highlight=False, markup=False, soft_wrap=True)
            console.out.print(f"  {loaded.environment.text}", highlight=False, markup=False, soft_wrap=True)
            networks = ", ".join(network.name for network in loaded.networks) or "none"
            console.out.print(
                f"  {len(loaded)} rows; networks: {networks}", highlight=False, markup=False, soft_wrap=True
            )
    if json:
        console.print_json(rows)
    elif not rows:
        console.out.print(
            "no table ships with this installation; make one with: gharial profile MODEL --out TABLE",
            highlight=False,
            soft_wrap=True,
        )


@tables.command(epilog="Example: gharial tables show table.parquet --site 'k3 s1' --json")
def show(table: TablePath, site: SiteText = None, json: AsJson = False) -> None:
    """Print a table's environment and its rows."""
    loaded = LatencyTable.load(find_table(table))
    shapes = _matching(loaded, site)
    if json:
        from latency_model.exports import records

        chosen = LatencyTable(loaded.environment, {shape: loaded[shape] for shape in shapes})
        console.print_json(
            {
                "environment": loaded.environment.to_json(),
                "rows": records(chosen),
                "networks": [
                    {
                        "name": network.name,
                        "latency_us": network.measurement.latency_us,
                        "low_us": network.measurement.low_us,
                        "high_us": network.measurement.high_us,
                        "convolutions": len(network.shapes),
                    }
                    for network in loaded.networks
                ],
                "failures": {shape.text: why for shape, why in sorted(loaded.failures.items())},
            }
        )
        return
    grid = Table("convolution", "latency (us)", "95 % interval", "samples", "flags", title=table)
    for shape in shapes:
        row = loaded[shape]
        interval = f"{row.low_us:.2f} - {row.high_us:.2f}"
        grid.add_row(shape.text, f"{row.latency_us:.2f}", interval, str(row.samples), ", ".join(row.flags))
    console.out.print(grid)
    console.out.print(f"{loaded.environment.text}", highlight=False)
    for network in loaded.networks:
        console.out.print(f"network {network.name}: {network.measurement.latency_us:.1f} us", highlight=False)
    console.out.print(
        f"{len(shapes)} of {len(loaded)} rows, {len(loaded.networks)} networks, "
        f"{len(loaded.failures)} failures",
        highlight=False,
    )


@tables.command(name="export", epilog="Example: gharial tables export table.parquet --out rows.csv")
def export_rows(
    table: TablePath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .csv, .parquet or .json file.")],
    json: AsJson = False,
) -> None:
    """Write a table's convolution rows as plain CSV, Parquet or JSON."""
    from latency_model.exports import export

    loaded = LatencyTable.load(find_table(table))
    export(loaded, out)
    _wrote(out, len(loaded), json=json)


@tables.command(epilog="Example: gharial tables merge monday.parquet tuesday.parquet --out both.parquet")
def merge(
    first: FirstTable,
    second: SecondTable,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The union of both.")],
    json: AsJson = False,
) -> None:
    """Join two tables of one environment; where both have a row, the later one wins."""
    joined = LatencyTable.load(find_table(first)).merge(LatencyTable.load(find_table(second)))
    joined.save(out)
    _wrote(out, len(joined), json=json)


@tables.command(epilog="Example: gharial tables diff before.parquet after.parquet")
def diff(
    first: FirstTable,
    second: SecondTable,
    json: AsJson = False,
) -> None:
    """Say for each row of both tables whether B is SAME, FASTER, SLOWER or UNCLEAR against A.

    FASTER and SLOWER when the 95 % intervals do not overlap; UNCLEAR when they do but are wide.
    """
    from latency_model.compare import VERDICTS, compare

    a, b = LatencyTable.load(find_table(first)), LatencyTable.load(find_table(second))
    rows = compare(a, b)
    found = Counter(row.verdict for row in rows)
    summary = {verdict: found[verdict] for verdict in VERDICTS}
    only_a, only_b = len(a) - len(rows), len(b) - len(rows)
    differences = a.environment.differences(b.environment)
    if json:
        console.print_json(
            {
                "summary": summary,
                "only_in_first": only_a,
                "only_in_second": only_b,
                "environment_differences": differences,
                "rows": [
                    {
                        "config": row.shape.text,
                        "first_us": row.first_us,
                        "second_us": row.second_us,
                        "ratio": row.ratio,
                        "verdict": row.verdict,
                    }
                    for row in rows
                ],
            }
        )
        return
    colours = {"FASTER": "green", "SLOWER": "red", "UNCLEAR": "yellow", "SAME": "dim"}
    grid = Table("convolution", "A (us)", "B (us)", "B / A", "verdict")
    for row in rows:
        verdict = Text(row.verdict, style=colours[row.verdict])
        grid.add_row(
            row.shape.text, f"{row.first_us:.2f}", f"{row.second_us:.2f}", f"{row.ratio:.3f}", verdict
        )
    console.out.print(grid)
    for difference in differences:
        console.out.print(f"other environment, {difference}", highlight=False)
    console.out.print(", ".join(f"{count} {verdict}" for verdict, count in summary.items()), highlight=False)
    console.out.print(f"{only_a} rows only in A, {only_b} only in B", highlight=False)


@tables.command(epilog="Example: gharial tables plot table.parquet --site 'k3 s1 8x8' --out stairs.png")
def plot(
    table: TablePath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png or .html file.")],
    site: SiteText = None,
    json: AsJson = False,
) -> None:
    """Draw the staircase of one convolution: latency over output channels.

    Of several sites that match, the one with the most rows is drawn.
    """
    from latency_model.exports import plot as draw
    from latency_model.grid import ChannelGrid

    loaded = LatencyTable.load(find_table(table))
    found = Counter(shape.site for shape in _matching(loaded, site))
    if not found:
        raise TableError(f"no row of {table} holds {site!r}; see its rows with: gharial tables show {table}")
    chosen = found.most_common(1)[0][0]
    grid = ChannelGrid.from_rows({shape: row for shape, row in loaded.items() if shape.site == chosen})
    draw(loaded, grid, out)
    if json:
        console.print_json({"out": str(out), "rows": len(grid.inputs), "matching_sites": len(found)})
        return
    console.err.print(
        f"drew {len(grid.inputs)} rows, one of {len(found)} matching sites, to {out}", highlight=False
    )
