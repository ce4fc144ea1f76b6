"""What Alembic runs for a migration: on the connection, and in the transaction, of the caller."""

from __future__ import annotations

from alembic import context

from latency_model.service.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=True
)
context.run_migrations()
