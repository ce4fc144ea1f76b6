"""The tables of the service's database; ``migrations`` brings an older database to this state.

Times are UTC, seconds since the epoch, so that every database compares them alike. A row's ``record`` is the JSON of
its measurement, complete (``records`` says how): what stands in columns beside it is what queries ask for.

Texts that are compared are compared by their characters' numbers, as Python and SQLite do, whatever the locale of a
PostgreSQL database.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql

__all__ = ["blobs", "environments", "job_items", "jobs", "metadata", "rows", "runs", "tokens"]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only where the key is its own INTEGER.
_ID = BigInteger().with_variant(Integer(), "sqlite")
_ORDERED = Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

# One for each identity of a measuring set-up. ``revision`` grows with every change of its rows: what was built from
# them (a lookup table, a fitted model) is good for one revision. The four counts are of its rows by kind: counting a
# million of them takes a second.
environments = Table(
    "environments",
    metadata,
    Column("id", _ID, Identity(), primary_key=True),
    Column("key", String(12), nullable=False, unique=True),
    Column("environment", Text, nullable=False),
    Column("revision", BigInteger, nullable=False, default=0),
    Column("convs", BigInteger, nullable=False, default=0),
    Column("ops", BigInteger, nullable=False, default=0),
    Column("networks", BigInteger, nullable=False, default=0),
    Column("failures", BigInteger, nullable=False, default=0),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)

# Where rows came from: a file that was imported, or a worker.
runs = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("environment_id", ForeignKey("environments.id"), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("rows", BigInteger, nullable=False, default=0),
)

# ``kind`` is conv, op, network or failure; ``key`` the text of the configuration, for a network its name and a digest
# of its operators. One row for each: who measures again replaces it if the new reading is the later one. ``position``
# gives networks their order and is null in other rows.
rows = Table(
    "rows",
    metadata,
    Column("environment_id", ForeignKey("environments.id"), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("key", _ORDERED, primary_key=True),
    Column("latency_us", Double),
    Column("low_us", Double),
    Column("high_us", Double),
    Column("measured_at", _ORDERED, nullable=False, default=""),
    Column("position", BigInteger),
    Column("record", Text, nullable=False),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    sqlite_with_rowid=False,
)

# Files that a job needs, by the SHA-256 of their bytes.
blobs = Table(
    "blobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
)

# ``state`` is queued, leased, done, failed or cancelled. A lease is held by whoever knows ``lease``; after
# ``lease_until`` anyone may take it over. ``wants`` is the JSON of what a worker must offer (device, runtime, …),
# ``request`` the JSON of what is to be measured. ``position`` gives equal priorities their order.
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("position", _ID, nullable=False, unique=True),
    Column("idempotency_key", String(200), unique=True),
    Column("request_digest", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("wants", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("blob", ForeignKey("blobs.digest")),
    Column("priority", Integer, nullable=False, default=0),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("max_attempts", Integer, nullable=False, default=5),
    Column("not_before", Double, nullable=False, default=0.0),
    Column("lease", String(64)),
    Column("lease_until", Double),
    Column("worker", Text),
    Column("environment_id", ForeignKey("environments.id")),
    Column("total", Integer, nullable=False, default=0),
    Column("done", Integer, nullable=False, default=0),
    Column("error", Text),
    Column("created_by", Text),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
    Index("ix_jobs_queue", "state", "priority", "position"),
)

# The configurations of a job; ``state`` is waiting, stored or failed.
job_items = Table(
    "job_items",
    metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("config", Text, nullable=False),
    Column("state", String(8), nullable=False),
    Column("error", Text),
    UniqueConstraint("job_id", "config"),
)

# The secret itself is not kept: ``digest`` is its SHA-256, enough for 256 random bits. ``scopes`` are words with
# spaces between them.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", String(64), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("used_at", Double),
)
