"""The command `gharial`: the three packages' command lines in one."""

from __future__ import annotations

import typer

from latency_model.cli import app as latency_model_app
from latency_model.console import run
from latency_model.service.serve_cli import app as serve_app
from profiler.cli import app as profiler_app
from profiler.engine_cli import app as engine_app
from profiler.worker_cli import app as worker_app
from pruner.cli import app as pruner_app

__all__ = ["app", "main"]

app = typer.Typer(
    name="gharial",
    help="How long does each convolution take on this device, and make the network fit the budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for _part in (profiler_app, worker_app, engine_app, latency_model_app, pruner_app, serve_app):
    app.add_typer(_part)


def main() -> None:
    """Run the command line; a GharialError becomes one sentence on stderr and its exit code."""
    run(app)


if __name__ == "__main__":
    main()
