"""The service's database: an engine for SQLite or PostgreSQL, with transactions that read and that write.

SQLite runs in WAL mode with ``synchronous=NORMAL``: a transaction that was committed outlives the end of any process,
kill -9 included. What a power cut may take is the last of them; the file itself stays whole.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from latency_model.errors import DependencyError
from latency_model.service.store.errors import StoreError
from latency_model.service.store.migrate import VERSIONS, current, migrate, newest

__all__ = ["Database", "open_database"]

# Who waits longer than this for another writer is told so.
_BUSY_S = 30.0
_WRITES = "gharial_writes"


@dataclass(frozen=True)
class Database:
    """A database and its connections; threads may share one. ``open_database`` makes it, ``close`` ends it."""

    engine: Engine

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self.engine.url.render_as_string(hide_password=True)

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file of SQLite; else it is PostgreSQL."""
        return self.engine.dialect.name == "sqlite"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection whose queries all see the database as it was at the first of them."""
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(
                    isolation_level="REPEATABLE READ", postgresql_readonly=True
                )
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection inside a transaction: committed at the end, rolled back on any exception.

        SQLite has one writer at a time, from the start of the transaction on; PostgreSQL as many as lock
        different rows.
        """
        with self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    def migrate(self, versions: Path = VERSIONS) -> None:
        """Bring the schema to the newest of ``versions``; quick when it is there, safe in several processes.

        Raises ``StoreError`` when the database cannot be reached, holds tables of something else, or was
        written by a later version of Gharial.
        """
        with self._reported():
            with self.read() as connection:
                if current(connection) == newest(versions):
                    return
            with self.write() as connection:
                migrate(connection, versions)

    def check(self, versions: Path = VERSIONS) -> None:
        """Raise ``StoreError`` unless the database answers and has the schema of this version."""
        with self._reported(), self.read() as connection:
            found = current(connection)
        if found != newest(versions):
            raise StoreError(
                f"the database {self.name} has the schema {found or 'of none'}, not {newest(versions)}; "
                "start the service once, it brings it up to date"
            )

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = (
                str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error).__name__
            )
            raise StoreError(f"cannot open the database {self.name}: {reason}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"cannot open the database {self.name}: {error}") from error


def open_database(url: str | Path) -> Database:
    """Return the database at ``url``: ``sqlite:///FILE`` or ``postgresql://USER@HOST/NAME``; nothing is read yet.

    A ``Path`` is a file of SQLite. Call ``migrate`` before the first use. Raises ``StoreError`` for a URL that
    cannot be used, ``DependencyError`` when the driver is missing.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed)
    try:
        engine = create_engine(
            parsed,
            pool_size=10,
            max_overflow=20,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10, "application_name": "gharial"},
        )
    except ImportError as error:
        raise DependencyError(
            "PostgreSQL needs its driver; install it with: pip install 'gharial[postgresql]'"
        ) from error
    return Database(engine)


def _parsed(url: str | Path) -> URL:
    if isinstance(url, Path):
        return URL.create("sqlite", database=str(url))
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(
            f"not the URL of a database: {url!r}; write it like sqlite:///rows.db or "
            "postgresql://user@host/gharial"
        ) from error
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise StoreError(
            f"a database of {parsed.drivername} is not supported; give sqlite:///FILE or postgresql://…"
        )
    return parsed


def _sqlite(url: URL) -> Database:
    if url.database in (None, "", ":memory:"):
        raise StoreError("the service keeps its rows in a file; give sqlite:///FILE")
    path = Path(str(url.database))
    if not path.name.startswith("file:"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"cannot make the folder {path.parent} of the database: {error.strerror}; choose another place"
            ) from error
    engine = create_engine(url, connect_args={"timeout": _BUSY_S}, pool_size=10, max_overflow=40)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return Database(engine)


def _configure(connection: sqlite3.Connection, _: Any) -> None:
    # Transactions begin where _begin says, not where the driver would guess.
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA cache_size = -65536")
    _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Turn the journal to WAL; several processes may do so to a new file at once, and SQLite does not wait there."""
    deadline = time.monotonic() + _BUSY_S
    while True:
        try:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal":
                return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise sqlite3.OperationalError("the file system does not support SQLite's write-ahead log")
        time.sleep(0.01)


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
