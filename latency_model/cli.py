"""Commands on tables and models: `gharial tables …`, `gharial fit`, `gharial estimate`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from latency_model import console
from latency_model.errors import InputError, TableError
from latency_model.table import LatencyTable

if TYPE_CHECKING:
    from latency_model.estimate import Estimate
    from latency_model.model import LatencyModel
    from latency_model.shapes import ConvShape

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
tables = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Look at latency tables.")
app.add_typer(tables, name="tables")

TablePath = Annotated[Path, typer.Argument(metavar="TABLE", help="A latency table (.parquet).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
SiteText = Annotated[
    str | None,
    typer.Option(help="Only rows whose text holds this, like 'k3 s1' or '8x8'; all words must occur."),
]


def _matching(table: LatencyTable, site: str | None) -> list[ConvShape]:
    words = (site or "").split()
    return [shape for shape in sorted(table) if all(word in shape.text for word in words)]


@tables.command(epilog="Example: gharial tables show table.parquet --site 'k3 s1' --json")
def show(table: TablePath, site: SiteText = None, json: AsJson = False) -> None:
    """Print a table's environment and its rows."""
    loaded = LatencyTable.load(table)
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
    grid = Table("convolution", "latency (us)", "95 % interval", "samples", "flags", title=str(table))
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
) -> None:
    """Write a table's convolution rows as plain CSV, Parquet or JSON."""
    from latency_model.exports import export

    loaded = LatencyTable.load(table)
    export(loaded, out)
    console.err.print(f"wrote {len(loaded)} rows to {out}", highlight=False)


@tables.command(epilog="Example: gharial tables merge monday.parquet tuesday.parquet --out both.parquet")
def merge(
    first: Annotated[Path, typer.Argument(metavar="A")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The union; the later row wins.")],
) -> None:
    """Join two tables of one environment."""
    joined = LatencyTable.load(first).merge(LatencyTable.load(second))
    joined.save(out)
    console.err.print(f"wrote {len(joined)} rows to {out}", highlight=False)


@tables.command(epilog="Example: gharial tables diff before.parquet after.parquet")
def diff(
    first: Annotated[Path, typer.Argument(metavar="A")],
    second: Annotated[Path, typer.Argument(metavar="B")],
    json: AsJson = False,
) -> None:
    """Say for each row of both tables whether B is SAME, FASTER, SLOWER or UNCLEAR against A.

    FASTER and SLOWER when the 95 % intervals do not overlap; UNCLEAR when they do but are wide.
    """
    from latency_model.compare import VERDICTS, compare

    a, b = LatencyTable.load(first), LatencyTable.load(second)
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
) -> None:
    """Draw the staircase of one convolution: latency over output channels.

    Of several sites that match, the one with the most rows is drawn.
    """
    from latency_model.exports import plot as draw
    from latency_model.grid import ChannelGrid

    loaded = LatencyTable.load(table)
    found = Counter(shape.site for shape in _matching(loaded, site))
    if not found:
        raise TableError(f"no row of {table} holds {site!r}; see its rows with: gharial tables show {table}")
    chosen = found.most_common(1)[0][0]
    grid = ChannelGrid.from_rows({shape: row for shape, row in loaded.items() if shape.site == chosen})
    draw(loaded, grid, out)
    console.err.print(
        f"drew {len(grid.inputs)} rows, one of {len(found)} matching sites, to {out}", highlight=False
    )


@app.command(epilog="Example: gharial fit table.parquet --out model")
def fit(
    paths: Annotated[list[Path], typer.Argument(metavar="TABLE...", help="Tables of one environment.")],
    out: Annotated[Path, typer.Option(metavar="MODEL_DIR", help="Where the model goes.")],
    json: AsJson = False,
) -> None:
    """Fit a latency model on tables: their rows, and a correction on their whole networks."""
    from latency_model.model import LatencyModel

    model = LatencyModel.fit([LatencyTable.load(path) for path in paths], origin=str(paths[0]))
    model.save(out)
    correction = model.correction
    if json:
        console.print_json(
            {
                "out": str(out),
                "rows": len(model.table),
                "correction": correction.to_json(),
                "notes": list(model.notes),
            }
        )
        return
    console.out.print(f"model of {len(model.table)} rows in {out}", highlight=False)
    console.out.print(
        f"latency = {correction.slope:.3f} x sum + {correction.offset_us:.1f} us, from "
        f"{correction.networks} measured networks, which it leaves {correction.spread:.1%} uncertain"
        if correction.networks
        else "no correction: the tables have no whole network that their rows cover",
        highlight=False,
    )
    for note in model.notes:
        console.out.print(f"note: {note}", highlight=False)


@app.command(epilog="Example: gharial estimate resnet20 --table table.parquet --batch 1")
def estimate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name of ours, torchvision:NAME, timm:NAME, package.module:callable, or a file.onnx.",
        ),
    ],
    table: Annotated[Path | None, typer.Option(metavar="TABLE", help="Use the rows of this table.")] = None,
    fitted: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL_DIR", help="Use what gharial fit wrote.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    precision: Annotated[str | None, typer.Option(help="[default: the table's, if it has only one]")] = None,
    confidence: Annotated[float, typer.Option(help="Of the interval.")] = 0.9,
    json: AsJson = False,
) -> None:
    """Estimate the latency of a network, convolution by convolution, with an interval."""
    from latency_model.estimate import explain
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    latency_model = _latency_model(table, fitted)
    wanted = precision or _precision(latency_model)
    network = harvest(load_model(model), batch=batch, precision=wanted, layout=_layout(latency_model))
    result = latency_model.estimate(network, confidence=confidence)
    if json:
        console.print_json({"model": model, "batch": batch, "precision": wanted, **result.to_json()})
        return
    _print_sites(result)
    console.out.print(explain(result), highlight=False, soft_wrap=True)


def _latency_model(table: Path | None, fitted: Path | None) -> LatencyModel:
    from latency_model.model import LatencyModel

    if (table is None) == (fitted is None):
        raise InputError("give either --table TABLE or --model MODEL_DIR")
    if table is not None:
        return LatencyModel.fit([LatencyTable.load(table)], origin=str(table))
    assert fitted is not None
    return LatencyModel.load(fitted)


def _precision(model: LatencyModel) -> str:
    found = sorted({shape.precision for shape in model.table})
    if len(found) != 1:
        raise InputError(f"the table has rows of {', '.join(found)}; choose with --precision")
    return found[0]


def _layout(model: LatencyModel) -> str:
    found = Counter(shape.layout for shape in model.table)
    return found.most_common(1)[0][0]


def _print_sites(result: Estimate) -> None:
    grid = Table("site", "convolution", "latency (us)", "share", "source")
    for site in result.sites:
        share = f"{site.latency_us / result.raw_sum_us:.1%}"
        grid.add_row(site.name, site.shape.text, f"{site.latency_us:.2f}", share, site.source)
    console.out.print(grid)
