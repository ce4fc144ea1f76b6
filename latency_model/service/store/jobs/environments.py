"""The environments of the store as jobs need them: what one is, and the id of one that may be new."""

from __future__ import annotations

import json
from functools import lru_cache

from sqlalchemy import Connection, select

from latency_model.environment import Environment
from latency_model.service.store.rows import put_rows
from latency_model.service.store.schema import environments
from latency_model.table import LatencyTable

__all__ = ["environment_of", "id_of"]


@lru_cache(maxsize=1024)
def environment_of(text: str) -> Environment:
    """Return the environment of the JSON text that the table ``environments`` holds."""
    return Environment.from_json(json.loads(text))


def id_of(connection: Connection, environment: Environment) -> int:
    """Return the id of an environment, which is made where it is new."""
    query = select(environments.c.id).where(environments.c.key == environment.key)
    found = connection.scalar(query)
    if found is None:
        put_rows(connection, LatencyTable(environment), source="a worker's offer")
        found = connection.scalar(query)
    assert found is not None
    return int(found)
