"""Back up a database that is in use, and restore it into an empty one of either kind."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, func, select, text

from latency_model.errors import InputError
from latency_model.files import write_atomic
from latency_model.service.store import schema
from latency_model.service.store.archive import open_archive, write_archive
from latency_model.service.store.bulk import add_lines
from latency_model.service.store.database import Database, open_database
from latency_model.service.store.errors import StoreError
from latency_model.service.store.migrate import current, migrate, newest, revisions

__all__ = ["backup", "restore"]

_SQLITE = (".db", ".sqlite", ".sqlite3")
_SQLITE_START = b"SQLite format 3\0"
_PAGES = 2000
Progress = Callable[[int, int], None]


def backup(database: Database, path: Path | str, *, progress: Progress | None = None) -> dict[str, int]:
    """Write the database as it is at one moment to ``path``, atomically; return the rows of each table.

    Readers and writers go on meanwhile. Ending .zip: an archive that either database is restored from. Ending
    .db or .sqlite, from SQLite only: a database that can be used as it is. Both hold the hashes of tokens, and
    no secret.
    """
    path = Path(path)
    database.check()
    if path.suffix.lower() == ".zip":
        with database.read() as connection:
            return write_archive(path, connection, schema.metadata, newest(), progress)
    if path.suffix.lower() not in _SQLITE:
        raise InputError(
            f"cannot back up to {path.name}; its ending must be .zip, or .db from SQLite to SQLite"
        )
    if not database.is_sqlite:
        raise InputError(f"cannot back up PostgreSQL to {path.name}; give a file that ends in .zip")
    write_atomic(path, lambda target: _copy(database, target, progress))
    return _counts(open_database(path))


def restore(path: Path | str, database: Database, *, progress: Progress | None = None) -> dict[str, int]:
    """Fill ``database``, which must be empty, from a backup; return the rows of each table.

    All or nothing: it is filled in one transaction. A backup of an earlier version is brought up to date.
    Raises ``StoreError`` when the backup is damaged or of a later version, or the database is not empty.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix="gharial-restore-") as folder:
        if _is_sqlite(path):
            # What a copy is, any database is: through an archive it goes to PostgreSQL as well.
            copy, archive = Path(folder) / "copy.db", Path(folder) / "copy.zip"
            _copy_file(path, copy)
            source = open_database(copy)
            try:
                source.migrate()
                backup(source, archive)
            finally:
                source.close()
            return _restore(archive, Path(folder), database, progress)
        return _restore(path, Path(folder), database, progress)


def _restore(path: Path, folder: Path, database: Database, progress: Progress | None) -> dict[str, int]:
    archive = open_archive(path, folder)
    if archive.revision not in revisions():
        raise StoreError(
            f"{path} was written by a later version of Gharial (schema {archive.revision}, this one knows "
            f"{newest()}); update with: pip install -U gharial"
        )
    with database.write() as connection:
        migrate(connection)
        tables = _reflected(connection)
        if filled := [table.name for table in tables.sorted_tables if _count(connection, table)]:
            raise StoreError(
                f"the database {database.name} is not empty, it has {', '.join(filled)}; restore into a new one"
            )
        if archive.revision != newest():
            tables = _made_again(connection, tables, archive.revision)
        done, counts = 0, {}
        for table in tables.sorted_tables:
            counts[table.name] = 0
            for columns, lines in archive.parts(table):
                add_lines(connection, table.name, columns, lines)
                counts[table.name] += len(lines)
                done += len(lines)
                if progress is not None:
                    progress(done, sum(archive.rows.values()))
        _continue_numbers(connection)
        migrate(connection)
    return counts


def _reflected(connection: Connection) -> MetaData:
    """Return our tables as they stand: those of an earlier version have other columns."""
    tables = MetaData()
    tables.reflect(connection, only=[name for name in schema.metadata.tables if _has(connection, name)])
    return tables


def _made_again(connection: Connection, tables: MetaData, revision: str) -> MetaData:
    """Make empty tables again as an earlier version had them; they are migrated with what is in them."""
    tables.drop_all(connection)
    connection.execute(text("DROP TABLE alembic_version"))
    migrate(connection, to=revision)
    return _reflected(connection)


def _has(connection: Connection, name: str) -> bool:
    return connection.dialect.has_table(connection, name)


def _count(connection: Connection, table: Any) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _counts(database: Database) -> dict[str, int]:
    try:
        with database.read() as connection:
            return {table.name: _count(connection, table) for table in schema.metadata.sorted_tables}
    finally:
        database.close()


def _continue_numbers(connection: Connection) -> None:
    """Let PostgreSQL count environments on from those that were restored; SQLite does so by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                "SELECT setval(pg_get_serial_sequence('environments', 'id'), "
                "(SELECT coalesce(max(id), 1) FROM environments), (SELECT count(*) > 0 FROM environments))"
            )
        )


def _copy(database: Database, target: Path, progress: Progress | None) -> None:
    def step(_: int, left: int, total: int) -> None:
        if progress is not None:
            progress(total - left, total)

    # Inside a transaction that reads: else each writer of another process would make the copy begin anew.
    with database.read() as connection:
        current(connection)
        source: Any = connection.connection.driver_connection
        copy = sqlite3.connect(target)
        try:
            source.backup(copy, pages=_PAGES, progress=step, sleep=0.0)
            # A copy that somebody opens read-only, or moves, is one file.
            copy.execute("PRAGMA journal_mode = DELETE")
        finally:
            copy.close()


def _copy_file(path: Path, target: Path) -> None:
    try:
        source = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        copy = sqlite3.connect(target)
        try:
            source.backup(copy)
        finally:
            copy.close()
            source.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} is damaged: {error}; take another backup") from error


def _is_sqlite(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(len(_SQLITE_START)) == _SQLITE_START
    except FileNotFoundError as error:
        raise StoreError(f"no backup at {path}; make one with: gharial backup {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read the backup {path}: {error.strerror}") from error
