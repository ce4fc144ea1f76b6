"""What every command shares: consoles, JSON output, progress bars, and errors without tracebacks."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from latency_model.errors import GharialError

__all__ = ["counting", "err", "out", "print_json", "progress", "run"]

# No markup: paths, model names and messages may hold brackets, and are printed as they are.
out = Console(markup=False)
err = Console(stderr=True, markup=False)

INTERRUPTED = 130


def progress(*, quiet: bool = False) -> Progress:
    """Return a progress display on stderr: bar, n of m, time left, and a note cut to the terminal's width."""
    whole = Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=whole),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=whole),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True, table_column=whole),
        TextColumn(
            "{task.fields[note]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=err,
        disable=quiet,
        expand=True,
    )


@contextmanager
def counting(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar of ``what`` and yield the function that moves it: (done, total)."""
    with progress(quiet=quiet) as bar:
        task = bar.add_task(what, total=None, note="")

        def step(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield step


def print_json(data: Any) -> None:
    """Print ``data`` on stdout as one JSON document, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def run(app: typer.Typer) -> None:
    """Run a typer application; a ``GharialError`` ends it with one sentence on stderr and its exit code."""
    logging.captureWarnings(True)
    try:
        app()
    except GharialError as error:
        err.print(Text.assemble(("error:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        # typer turns Ctrl-C into this exit code, without a word.
        if end.code == INTERRUPTED:
            err.print("interrupted; the same command goes on where it stopped", highlight=False)
        raise
    except BrokenPipeError:
        sys.exit(0)
