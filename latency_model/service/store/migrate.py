"""Versions of the schema: from any older one forward to the newest, by Alembic, in one transaction."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from latency_model.service.store.errors import StoreError
from latency_model.service.store.schema import metadata

__all__ = ["VERSIONS", "current", "migrate", "newest"]

_FOLDER = Path(__file__).with_name("migrations")
VERSIONS = _FOLDER / "versions"
# Any number does: it names the lock under which one process at a time migrates a PostgreSQL database.
_LOCK = 0x6768617269616C


def revisions(versions: Path = VERSIONS) -> list[str]:
    """Return the names of the revisions in a folder of files ``vNNNN_what.py``, oldest first."""
    return sorted(path.name[1:5] for path in versions.glob("v[0-9][0-9][0-9][0-9]_*.py"))


def newest(versions: Path = VERSIONS) -> str:
    """Return the last revision of a folder."""
    return revisions(versions)[-1]


def current(connection: Connection) -> str | None:
    """Return the revision that the database has, None where it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def migrate(connection: Connection, versions: Path = VERSIONS, *, to: str | None = None) -> None:
    """Migrate inside the transaction of ``connection`` to revision ``to``, the newest if not given.

    Raises ``StoreError`` for a database of a later version, and for one that holds another program's tables.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    target, found = to or newest(versions), current(connection)
    if found == target:
        return
    if found is not None and found not in revisions(versions):
        raise StoreError(
            f"the database was written by a later version of Gharial (schema {found}, this one knows "
            f"{newest(versions)}); update with: pip install -U gharial"
        )
    if found is None and (foreign := set(metadata.tables) & set(inspect(connection).get_table_names())):
        raise StoreError(
            f"the database holds a table {min(foreign)!r} that is not Gharial's; give an empty database"
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.attributes["connection"] = connection
    # A configuration file would take % for the start of a name.
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", str(versions).replace("%", "%%"))
    command.upgrade(config, target)
