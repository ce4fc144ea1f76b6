"""Commands that look at tables: `gharial tables …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from latency_model import console
from latency_model.errors import InputError
from latency_model.served import OfServer, given_table
from latency_model.served_cli import download, list_served
from latency_model.shipped import find_table, shipped_tables
from latency_model.table import LatencyTable

__all__ = ["AsJson", "tables"]

tables = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Look at latency tables.")

TablePath = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="A latency table (.parquet), or the name of one that ships; with --server a device, or a key.",
    ),
]
FirstTable = Annotated[str, typer.Argument(metavar="A", help="A table, as a file or by its name.")]
SecondTable = Annotated[str, typer.Argument(metavar="B", help="Another one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
SiteText = Annotated[
    str | None,
    typer.Option(help="Only rows whose text holds this, like 'k3 s1' or '8x8'; all words must occur."),
]


# Rows that are printed unless more are asked for.
_ROWS = 40
# Where nothing says how wide the output is, as in a pipe, a row stays on one line.
_PIPE_WIDTH = 200


def _line(text: str, *, error: bool = False) -> None:
    where = console.err if error else console.out
    where.print(text, highlight=False, markup=False, soft_wrap=True)


def _width() -> int:
    return console.out.width if console.out.is_terminal else _PIPE_WIDTH


def _table(grid: Table) -> None:
    where = console.out if console.out.is_terminal else Console(width=_PIPE_WIDTH, markup=False)
    where.print(grid)


@tables.command(name="list", epilog="Example: gharial tables list --json")
def list_shipped(server: OfServer = None, json: AsJson = False) -> None:
    """List the tables that ship with Gharial, or those of a server; commands take one by its name."""
    if server is not None:
        list_served(server, json=json)
        return
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


tables.command(epilog="Example: gharial tables download h100 --server http://host:8765 --out h100.parquet")(
    download
)


@tables.command(epilog="Example: gharial tables show table.parquet --site 'k3 s1' --sort latency --limit 10")
def show(
    table: TablePath,
    site: SiteText = None,
    op: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this operator, like Add; Conv: the convolutions.")
    ] = None,
    flag: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only rows with this flag, like unstable.")
    ] = None,
    kernel: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only rows that run a kernel whose name holds this.")
    ] = None,
    sort: Annotated[str, typer.Option(help="shape, or latency: the slowest first.")] = "shape",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Rows to print.", show_default=f"{_ROWS}, all with --json"),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print all rows.")] = False,
    wide: Annotated[
        bool, typer.Option("--wide", help="Print all that is known of each row, the search's candidates too.")
    ] = False,
    server: OfServer = None,
    json: AsJson = False,
) -> None:
    """Print a table's rows, networks and failures, and what it holds in all."""
    from latency_model.show import Selection, in_full, row_grid, select, summary_lines

    if everything and limit is not None:
        raise InputError("give --all or --limit, not both")
    selection = Selection(tuple((site or "").split()), op, flag, kernel, sort)
    loaded = given_table(table, server)
    rows = select(loaded, selection)
    if json:
        from latency_model.exports import record, write_json_rows

        write_json_rows(sys.stdout, loaded, (record(*row) for row in rows[:limit]))
        return
    shown = rows if everything else rows[: limit or _ROWS]
    if wide:
        for row in shown:
            for line in in_full(*row):
                _line(line)
    else:
        _table(row_grid(shown, table, width=_width()))
    if len(shown) < len(rows):
        _line(f"… and {len(rows) - len(shown)} more; print them with --all")
    for network in loaded.networks:
        timed = network.measurement
        _line(
            f"network {network.name}: {timed.latency_us:.1f} us ({timed.low_us:.1f} - {timed.high_us:.1f}), "
            f"{len(network.shapes)} convolutions"
        )
    failures = [(config.text, why) for config, why in loaded.failures.items() if selection.of_shape(config)]
    most = len(failures) if everything else limit or _ROWS
    for text, why in sorted(failures)[:most]:
        _line(f"failed: {text}: {why}")
    if most < len(failures):
        _line(f"… and {len(failures) - most} more failures; print them with --all")
    for line in summary_lines(loaded, rows):
        _line(line)


@tables.command(name="export", epilog="Example: gharial tables export table.parquet --out rows.csv")
def export_rows(
    table: TablePath,
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .csv, .parquet, .json or .lookup file.")],
    server: OfServer = None,
    json: AsJson = False,
) -> None:
    """Write a table's convolutions and operators as plain CSV, Parquet or JSON, a column per property.

    Networks and failures are in JSON only. A .lookup file holds the latencies of the convolutions alone, for
    looking up millions at once from Python (latency_model.lookup.LookupTable).
    """
    from latency_model.exports import export

    loaded = given_table(table, server)
    rows = export(loaded, out)
    if json:
        console.print_json({"out": str(out), "rows": rows})
        return
    console.err.print(f"wrote {rows} rows to {out}", highlight=False, soft_wrap=True)
    if out.suffix.lower() == ".lookup" and loaded.ops:
        console.err.print(
            f"left out {len(loaded.ops)} operators: a lookup table holds convolutions only",
            highlight=False,
            soft_wrap=True,
        )
    if out.suffix.lower() != ".json" and (loaded.networks or loaded.failures):
        console.err.print(
            f"left out {len(loaded.networks)} networks and {len(loaded.failures)} failures: "
            "only an export to .json holds them",
            highlight=False,
            soft_wrap=True,
        )


@tables.command(epilog="Example: gharial tables merge monday.parquet tuesday.parquet --out both.parquet")
def merge(
    given: Annotated[
        list[str], typer.Argument(metavar="TABLE...", help="Tables of one environment, as files or by name.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The union of all.")],
    json: AsJson = False,
) -> None:
    """Join tables of one environment; where several have a row, the one measured last wins.

    Of rows measured at the same moment that of the table given last wins. A row ends a failure.
    """
    from latency_model.merging import merge_tables

    joined, report = merge_tables([LatencyTable.load(find_table(text)) for text in given])
    joined.save(out)
    if json:
        console.print_json({"out": str(out), **report.to_json(), "rows": report.rows + report.ops})
        return
    _line(f"wrote {report.rows + report.ops} rows of {report.tables} tables to {out}", error=True)
    _line(
        f"{report.conflicts} conflicts, settled by the later measurement "
        f"({report.earlier_given_won} times by a table given earlier); {report.identical} identical rows; "
        f"{report.failures_ended} failures ended by a row",
        error=True,
    )


@tables.command(
    epilog="Example: gharial tables diff before.parquet after.parquet --threshold 0.02 --out diff.csv"
)
def diff(
    first: FirstTable,
    second: SecondTable,
    threshold: Annotated[
        float, typer.Option(min=0.0, help="Take differences up to this for none; 0.02 is 2 %.")
    ] = 0.0,
    fail_on: Annotated[
        str | None,
        typer.Option(
            metavar="VERDICT",
            help="slower, faster or changed: end with exit code 3 when a row is so beyond chance.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every row to this .csv file.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to print, the largest changes first.")] = _ROWS,
    everything: Annotated[
        bool, typer.Option("--all", help="Print all rows, in the order of shapes.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Say for each row of both tables whether B is SAME, FASTER, SLOWER or UNCLEAR against A.

    FASTER and SLOWER: the 95 % intervals do not overlap, in time and, where the SM clock is known, in cycles.
    SAME: they overlap and leave no room for 10 %. UNCLEAR: the rest, with the reason. About 0.6 % of unchanged
    rows come out FASTER or SLOWER by chance; marked * are those that hold for all rows at once (Bonferroni,
    5 %), and only these count for --fail-on.
    """
    from latency_model import differences

    wanted = differences.failing(fail_on)
    found = differences.compare_tables(
        LatencyTable.load(find_table(first)), LatencyTable.load(find_table(second)), threshold=threshold
    )
    if out is not None:
        differences.write_csv(found, out)
    if json:
        differences.write_json(found, sys.stdout)
    else:
        for text in found.environment:
            _line(f"other environment, {text}")
        shown = found.rows if everything else differences.most_changed(found, limit)
        _table(differences.grid(shown, width=_width()))
        if len(shown) < len(found.rows):
            _line(f"… and {len(found.rows) - len(shown)} more; print them with --all")
        for line in differences.summary_lines(found):
            _line(line)
    if any(row.stands and row.verdict in wanted for row in found.rows):
        raise typer.Exit(differences.EXIT_CODE)


@tables.command(epilog="Example: gharial tables plot table.parquet --site 'k3 s1 8x8' --out stairs.png")
def plot(
    given: Annotated[
        list[str],
        typer.Argument(metavar="TABLE...", help="One table, or several to compare, as files or by name."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .png or .html file.")],
    site: SiteText = None,
    over: Annotated[str, typer.Option(help="Draw over the out channels, or over in.")] = "out",
    at: Annotated[
        str | None,
        typer.Option(
            metavar="COUNTS", help="Values of the other count, like 64,128.", show_default="up to 5"
        ),
    ] = None,
    heat: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="A map over both counts instead: latency, per-mac, ratio (of two tables) or kernel.",
        ),
    ] = None,
    server: OfServer = None,
    json: AsJson = False,
) -> None:
    """Draw one convolution: its latency over one channel count, or a map over both.

    Of several sites that match, the one with the most rows is drawn. Only measured points are drawn.
    """
    from latency_model.plots import draw

    drawn = draw(
        [given_table(text, server) for text in given],
        out,
        words=(site or "").split(),
        over=over,
        at=_counts(at),
        heat=heat,
    )
    if json:
        console.print_json(drawn)
        return
    _line(f"drew {drawn['rows']} rows, one of {drawn['matching_sites']} matching sites, to {out}", error=True)


def _counts(text: str | None) -> list[int]:
    try:
        return [int(word) for word in (text or "").replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"--at takes channel counts like 64,128, not {text!r}") from error
