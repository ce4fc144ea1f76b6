"""Commands on tables and models: `gharial tables …`, `gharial fit`, `gharial estimate`."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from latency_model import console
from latency_model.errors import InputError
from latency_model.shapes import PRECISIONS
from latency_model.shipped import find_table
from latency_model.table import LatencyTable
from latency_model.tables_cli import AsJson, tables

if TYPE_CHECKING:
    from latency_model.estimate import Estimate
    from latency_model.model import LatencyModel

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(tables, name="tables")


class OnBad(StrEnum):
    """What becomes of rows of a plain file that cannot be used."""

    ERROR = "error"
    DROP = "drop"


@app.command(epilog="Example: gharial fit table.parquet --out model")
def fit(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE",
            help="Tables of one environment, as files or names of shipped ones, or .parquet and .csv files of "
            "plain rows: batch, in_channels, out_channels, height, kernel_size, ..., latency_ms or latency_us.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="MODEL_DIR", help="Where the model goes.")],
    on_bad: Annotated[
        OnBad,
        typer.Option(help="Rows of a plain file that cannot be used: stop, or leave them out and say so."),
    ] = OnBad.ERROR,
    json: AsJson = False,
) -> None:
    """Fit a latency model on tables or plain rows, and a correction on the whole networks of tables."""
    from latency_model.model import LatencyModel
    from latency_model.rows import load_tables

    paths = [find_table(text) for text in given]
    tables, _, notes = load_tables(paths, on_bad=on_bad.value)
    model = LatencyModel.fit(tables, origin=str(paths[0]))
    model.save(out)
    correction = model.correction
    if json:
        console.print_json(
            {
                "out": str(out),
                "rows": len(model.table),
                "correction": correction.to_json(),
                "notes": [*notes, *model.notes],
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
    for note in (*notes, *model.notes):
        console.out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


@app.command(epilog="Example: gharial estimate resnet20 --table table.parquet --batch 1")
def estimate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name like resnet20, torchvision:NAME, timm:NAME, package.module:callable, or a file.onnx.",
        ),
    ],
    table: Annotated[
        str | None,
        typer.Option(
            metavar="TABLE", help="Use this table: a file, or a name that gharial tables list shows."
        ),
    ] = None,
    fitted: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL_DIR", help="Use what gharial fit wrote.")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Images at once.", show_default="1, or what an ONNX file fixes"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help=", ".join(PRECISIONS), show_default="the table's if it has one only, of an ONNX file its own"
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="How often the interval shall hold, like 0.9.")] = 0.9,
    json: AsJson = False,
) -> None:
    """Estimate the latency of a network, convolution by convolution, with an interval."""
    from latency_model.estimate import explain
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    latency_model = _latency_model(table, fitted)
    loaded = load_model(model)
    if precision is None and loaded.onnx_path is None:
        precision = _precision(latency_model)
    network = harvest(loaded, batch=batch, precision=precision, layout=_layout(latency_model))
    result = latency_model.estimate(network, confidence=confidence)
    if json:
        shape = result.sites[0].shape
        found = ", ".join(sorted({site.shape.precision for site in result.sites}))
        console.print_json({"model": model, "batch": shape.batch, "precision": found, **result.to_json()})
        return
    _print_sites(result)
    console.out.print(explain(result), highlight=False, markup=False, soft_wrap=True)


def _latency_model(table: str | None, fitted: Path | None) -> LatencyModel:
    from latency_model.model import LatencyModel

    if table is not None and fitted is not None:
        raise InputError("an estimate rests on one source; give --table TABLE or --model MODEL_DIR, not both")
    if fitted is not None:
        return LatencyModel.load(fitted)
    if table is None:
        raise InputError(
            "an estimate needs measurements; give --table TABLE, which gharial profile makes and of which "
            "gharial tables list shows those that ship, or --model MODEL_DIR, which gharial fit makes"
        )
    path = find_table(table)
    return LatencyModel.fit([LatencyTable.load(path)], origin=str(path))


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
