"""The report on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pruner.report.figures import headline
from pruner.report.run_report import RunReport

__all__ = ["print_report"]


def print_report(report: RunReport, console: Console) -> None:
    """Print the headline figures as a table, then removed blocks and notes."""
    title = f"{report.model or 'model'} pruned by {report.method} to {report.budget}"
    table = Table(title=Text(title, style="table.title"))
    table.caption = Text(f"{report.device} · {report.runtime} · {report.precision}", style="table.caption")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for figure in headline(report):
        table.add_row(figure.name, figure.before, figure.after, figure.change)
    console.print(table)
    shrunk = sum(group.after < group.before for group in report.groups)
    if report.groups:
        console.print(
            f"{shrunk} of {len(report.groups)} channel groups are smaller, "
            f"removed blocks: {len(report.blocks_removed)}, {report.seconds:.0f} s in all",
            highlight=False,
        )
    for note in report.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
