"""The command `gharial fit`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latency_model import console
from latency_model.shipped import find_table
from latency_model.tables_cli import AsJson

if TYPE_CHECKING:
    from latency_model.fitting import Fitted

__all__ = ["fit"]


class OnBad(StrEnum):
    """What becomes of rows of a plain file that cannot be used."""

    ERROR = "error"
    DROP = "drop"


def fit(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE",
            help="Tables of one environment, as files or names of shipped ones, or .parquet and .csv files of "
            "plain rows: batch, in_channels, out_channels, height, kernel_size, ..., latency_ms or latency_us.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="MODEL_DIR", help="Where the model and its report go.")],
    networks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measured networks, .json or .json.gz, for the correction of sums."
        ),
    ] = None,
    regression: Annotated[
        bool,
        typer.Option(help="Fit a regression of the rows too: it predicts convolutions that they lack."),
    ] = True,
    report: Annotated[bool, typer.Option(help="Write report.html and report.png.")] = True,
    on_bad: Annotated[
        OnBad,
        typer.Option(help="Rows of a plain file that cannot be used: stop, or leave them out and say so."),
    ] = OnBad.ERROR,
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of which device plain rows are, if their file does not say."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Fit a latency model on tables or plain rows, and a correction on whole networks."""
    from latency_model.fit_report import headline, summary, write_report
    from latency_model.fitting import fit_files, report_facts

    paths = [find_table(text) for text in given]
    with console.counting("regressions", quiet=json) as step:
        fitted = fit_files(
            paths,
            networks=networks,
            on_bad=on_bad.value,
            device=device,
            regression=regression,
            progress=step,
        )
    fitted.model.save(out)
    facts = report_facts(fitted, title=", ".join(path.name for path in paths))
    if report and facts is not None:
        write_report(facts, out)
    figures = None if facts is None else summary(facts)
    if json:
        console.print_json({**_json(fitted, out), "figures": figures})
        return
    _print(fitted, out)
    of = ""
    for figure in headline(figures) if figures is not None else ():
        if figure.of != of:
            of = figure.of
            console.out.print(of, highlight=False)
        console.out.print(f"  {figure.name} {figure.value} ({figure.note})", highlight=False, soft_wrap=True)
    if report and facts is not None:
        console.out.print(f"report: {out / 'report.html'}", highlight=False, soft_wrap=True)


def _json(fitted: Fitted, out: Path) -> dict[str, Any]:
    model = fitted.model
    correction = model.correction if model.prices is None else model.prices.correction
    return {
        "out": str(out),
        "rows": len(model.table),
        "regression": model.rows is not None,
        "correction": correction.to_json(),
        "notes": [*fitted.notes, *model.notes],
    }


def _print(fitted: Fitted, out: Path) -> None:
    model = fitted.model
    correction = model.correction if model.prices is None else model.prices.correction
    console.out.print(f"model of {len(model.table)} rows in {out}", highlight=False)
    if correction.networks:
        text = (
            f"sums are corrected as {correction.networks} measured network{'s' * (correction.networks > 1)} took, "
            f"which leaves them {correction.spread:.1%} uncertain"
        )
    else:
        text = "no correction: the tables have no whole network that their rows cover"
    console.out.print(text, highlight=False)
    for note in (*fitted.notes, *model.notes):
        console.out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
