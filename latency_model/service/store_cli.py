"""Commands on the service's database: tokens, backups and imports."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latency_model import console
from latency_model.errors import DependencyError, InputError
from latency_model.shipped import find_table
from latency_model.tables_cli import AsJson

if TYPE_CHECKING:
    from latency_model.service.store.database import Database
    from latency_model.service.store.tokens import TokenInfo

__all__ = ["app", "import_tables"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
tokens = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, help="Who may use the service, and for what."
)
app.add_typer(tokens, name="tokens")

DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        help="sqlite:///FILE or postgresql://USER@HOST/NAME.",
        show_default="GHARIAL_DATABASE_URL, else a file of SQLite among this user's data",
    ),
]
_PERIOD = re.compile(r"(\d+)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@contextmanager
def _opened(url: str | None, *, migrate: bool = True) -> Iterator[Database]:
    try:
        from latency_model.service.settings import settings_from_environment
        from latency_model.service.store.database import open_database
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("latency_model"):
            raise
        raise DependencyError(
            f"the service's database needs {error.name}; install it with: pip install 'gharial[service]'"
        ) from error
    database = open_database(settings_from_environment(database_url=url).database_url)
    try:
        if migrate:
            database.migrate()
        yield database
    finally:
        database.close()


def _say(text: str) -> None:
    console.err.print(text, highlight=False, soft_wrap=True)


def import_tables(
    given: Annotated[
        list[str],
        typer.Argument(metavar="TABLE...", help="Latency tables (.parquet), or names of shipped ones."),
    ],
    database: DatabaseUrl = None,
    json: AsJson = False,
) -> None:
    """Import tables into the service's database; of two rows of one configuration the later stays.

    A table that was imported before changes nothing, and an import that was interrupted is finished by the same
    command. A service that runs on the database answers from the new rows a few seconds later.
    """
    paths = [find_table(text) for text in given]
    reports: list[dict[str, Any]] = []
    with _opened(database) as opened:
        from latency_model.service.store.rows import put_file

        for path in paths:
            with console.counting(f"importing {path.name}", quiet=json) as step:
                report = put_file(opened, path, progress=step)
            reports.append({"file": str(path), **report.to_json()})
            if not json:
                _say(
                    f"{path.name}: {report.new} new, {report.replaced} replaced, {report.identical} identical, "
                    f"{report.older} older than what is there; environment {report.key}, revision {report.revision}"
                )
    if json:
        console.print_json(reports)


@app.command(name="backup", epilog="Example: gharial backup gharial-monday.zip")
def back_up(
    out: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A .zip that any database is restored from, or a .db of SQLite."),
    ],
    database: DatabaseUrl = None,
    json: AsJson = False,
) -> None:
    """Back up the service's database as it is at this moment; the service may run meanwhile.

    The file holds the hashes of tokens, never their secrets: after a restore the same tokens are valid.
    """
    with _opened(database) as opened:
        from latency_model.service.store.backup import backup

        with console.counting("backing up", quiet=json) as step:
            counts = backup(opened, out, progress=step)
    if json:
        console.print_json({"out": str(out), "tables": counts})
        return
    _say(f"wrote {sum(counts.values())} rows of {len(counts)} tables to {out}")


@app.command(epilog="Example: gharial restore gharial-monday.zip --database postgresql://gharial@db/gharial")
def restore(
    backup: Annotated[Path, typer.Argument(metavar="FILE", help="What gharial backup wrote.")],
    database: DatabaseUrl = None,
    json: AsJson = False,
) -> None:
    """Fill a new, empty database of either kind from a backup, all of it or nothing."""
    with _opened(database, migrate=False) as opened:
        from latency_model.service.store import backup as store

        with console.counting("restoring", quiet=json) as step:
            counts = store.restore(backup, opened, progress=step)
        name = opened.name
    if json:
        console.print_json({"database": name, "tables": counts})
        return
    _say(f"restored {sum(counts.values())} rows of {len(counts)} tables to {name}")


@tokens.command(epilog="Example: gharial tokens create lab-worker --scope work --expires 90d")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose token it is.")],
    scope: Annotated[
        list[str],
        typer.Option(help="What it is for: read, rows:write, jobs:write, work or admin; may be given again."),
    ],
    expires: Annotated[
        str | None,
        typer.Option(metavar="PERIOD", help="Like 12h, 90d or 4w.", show_default="never"),
    ] = None,
    database: DatabaseUrl = None,
    json: AsJson = False,
) -> None:
    """Make a token and print its secret, which cannot be shown again, on stdout."""
    from_now = None if expires is None else _seconds(expires)
    with _opened(database) as opened:
        from latency_model.service.store.tokens import create_token

        info, secret = create_token(opened, name, scope, expires_in_s=from_now)
    if json:
        console.print_json({**_public(info), "secret": secret})
        return
    _say(
        f"token {info.id} of {info.name} for {', '.join(info.scopes)}; keep its secret, it is not shown again:"
    )
    typer.echo(secret)


@tokens.command(name="list", epilog="Example: gharial tokens list --json")
def list_all(database: DatabaseUrl = None, json: AsJson = False) -> None:
    """List all tokens, revoked and expired ones too; secrets are not kept."""
    with _opened(database) as opened:
        from latency_model.service.store.tokens import list_tokens

        found = list_tokens(opened)
    if json:
        console.print_json([_public(info) for info in found])
        return
    for info in found:
        times = {"made": info.created_at, "expires": info.expires_at, "last used": info.used_at}
        said = [f"{word} {_when(at)}" for word, at in times.items() if at is not None]
        console.out.print(
            f"{info.id}  {info.state:<7}  {info.name}: {' '.join(info.scopes)}; {', '.join(said)}",
            highlight=False,
            soft_wrap=True,
        )
    if not found:
        _say("no tokens yet; make one with: gharial tokens create NAME --scope rows:write")


@tokens.command(epilog="Example: gharial tokens revoke lab-worker")
def revoke(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN", help="The id of a token, or its name if only one has it.")
    ],
    database: DatabaseUrl = None,
    json: AsJson = False,
) -> None:
    """Revoke a token; a service that runs refuses it from a few seconds later on."""
    with _opened(database) as opened:
        from latency_model.service.store.tokens import revoke_token

        info = revoke_token(opened, token)
    if json:
        console.print_json(_public(info))
        return
    _say(f"revoked token {info.id} of {info.name}")


def _public(info: TokenInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "scopes": list(info.scopes),
        "state": info.state,
        "created_at": _when(info.created_at),
        "expires_at": _when(info.expires_at),
        "revoked_at": _when(info.revoked_at),
        "used_at": _when(info.used_at),
    }


def _when(at: float | None) -> str | None:
    if at is None:
        return None
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat(timespec="seconds")


def _seconds(text: str) -> float:
    found = _PERIOD.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--expires takes a period like 12h, 90d or 4w, not {text!r}")
    return float(int(found[1]) * _SECONDS[found[2]])
