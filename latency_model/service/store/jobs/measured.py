"""Which items of a job have rows already, in one environment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, select

from latency_model.service.store.jobs.environments import environment_of
from latency_model.service.store.jobs.requests import NETWORK
from latency_model.service.store.jobs.wants import Wants
from latency_model.service.store.records import key_of
from latency_model.service.store.schema import environments, rows

__all__ = ["complete_environment", "measured"]

_AT_ONCE = 500


def measured(connection: Connection, environment_id: int, items: Iterable[str]) -> set[str]:
    """Return those of ``items`` that have a row in the environment; a failure is none."""
    items = list(items)
    networks = [item for item in items if item.startswith(NETWORK)]
    texts = {key_of(item): item for item in items if not item.startswith(NETWORK)}
    keys = list(texts)
    here = rows.c.environment_id == environment_id
    found: set[str] = set()
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        # Both parts of the key, so that the primary key's index finds them.
        asked = select(rows.c.key).where(here, rows.c.kind.in_(("conv", "op")), rows.c.key.in_(part))
        found.update(texts[key] for key in connection.scalars(asked))
    for item in networks:
        # The key is the name, which is plain ASCII and says which network it is, and a digest of its operators.
        prefix = item.removeprefix(NETWORK) + " "
        asked = select(rows.c.key).where(
            here, rows.c.kind == "network", rows.c.key.startswith(prefix, autoescape=True)
        )
        if connection.scalar(asked.limit(1)) is not None:
            found.add(item)
    return found


def complete_environment(connection: Connection, wants: Wants, items: Sequence[str]) -> int | None:
    """Return an environment that is wanted and has rows of all ``items``, the latest changed; None without one."""
    latest = select(environments.c.id, environments.c.environment).order_by(
        environments.c.changed_at.desc(), environments.c.id.desc()
    )
    for environment_id, text in connection.execute(latest).all():
        if not wants.allows(environment_of(text)):
            continue
        # Most environments lack the first item already.
        if measured(connection, environment_id, items[:1]) and measured(
            connection, environment_id, items
        ) == set(items):
            return int(environment_id)
    return None
