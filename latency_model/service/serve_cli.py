"""The command `gharial serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latency_model import console
from latency_model.errors import DependencyError

__all__ = ["app", "serve"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command(epilog="Example: gharial serve --port 8765")
def serve(
    host: Annotated[
        str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.", show_default="8765")
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="sqlite:///FILE or postgresql://USER@HOST/NAME.",
            show_default="a file of SQLite among this user's data",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where files are kept that can be made again.", show_default=False
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Ask for a token to read as well; writing always needs one.")
    ] = False,
) -> None:
    """Serve lookups, estimates, tables and jobs over HTTP, beginning with the tables that ship with Gharial.

    Every setting is an environment variable too: GHARIAL_PORT, GHARIAL_DATABASE_URL and so on.
    """
    try:
        from latency_model.service.serving import serve as run
        from latency_model.service.settings import settings_from_environment
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("latency_model"):
            raise
        raise DependencyError(
            f"the service needs {error.name}; install it with: pip install 'gharial[service]'"
        ) from error
    settings = settings_from_environment(
        host=host,
        port=port,
        database_url=database,
        cache_dir=cache,
        public_reads=False if private else None,
    )
    run(
        settings,
        started=lambda address: console.err.print(
            f"serving on {address}, rows in {settings.shown_database}", highlight=False, soft_wrap=True
        ),
    )
