"""The life of a job: its states, what leads from one to the next, and how long a failed attempt rests.

    submit ─▶ queued ──lease──▶ leased ──complete──▶ done (or failed, when no configuration could be timed)
                ▲  │             │  │ └─lease again, after it expired: by another worker─▶ leased
                │  │             │  └─fail, the last attempt─▶ failed
                └──┼─fail, give back
                   └─cancel─▶ cancelled ◀─cancel─┘

``done``, ``failed`` and ``cancelled`` are final. A lease whose time is up is still held until somebody else takes the
job: its holder may come late and go on. Attempts are counted since the last one that stored anything, so a long job
on a worker that often dies goes on, and one that never gets anywhere ends as failed, with the reason.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import RowMapping

__all__ = ["FINAL", "STATES", "Job", "State", "rest_s"]

State = Literal["queued", "leased", "done", "failed", "cancelled"]
STATES: tuple[State, ...] = ("queued", "leased", "done", "failed", "cancelled")
FINAL: frozenset[State] = frozenset({"done", "failed", "cancelled"})

_FIRST_S, _LONGEST_S = 2.0, 300.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job as its owner sees it: the lease, which is its holder's secret, is not part of it.

    ``total`` counts its configurations (and the network itself, for a job of a model), ``done`` those that are
    stored or could not be timed, ``failures`` the reasons of the latter where they were asked for. ``environment``
    is the key of the environment that it is, or was last, measured in. Times are UTC, seconds since the epoch.
    """

    id: str
    kind: Literal["configs", "model"]
    state: State
    wants: Mapping[str, Any]
    request: Mapping[str, Any]
    priority: int
    attempts: int
    max_attempts: int
    total: int
    done: int
    worker: str | None
    environment: str | None
    error: str | None
    not_before: float
    lease_until: float | None
    created_by: str | None
    created_at: float
    changed_at: float
    failures: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, row: RowMapping, *, environment: str | None, failures: Mapping[str, str] | None = None
    ) -> Job:
        """Return the job of a row of the table ``jobs``."""
        return cls(
            id=row["id"],
            kind=row["kind"],
            state=row["state"],
            wants=json.loads(row["wants"]),
            request=json.loads(row["request"]),
            priority=row["priority"],
            attempts=row["attempts"],
            max_attempts=row["max_attempts"],
            total=row["total"],
            done=row["done"],
            worker=row["worker"],
            environment=environment,
            error=row["error"],
            not_before=row["not_before"],
            lease_until=row["lease_until"] if row["state"] == "leased" else None,
            created_by=row["created_by"],
            created_at=row["created_at"],
            changed_at=row["changed_at"],
            failures=dict(failures or {}),
        )


def rest_s(attempts: int, rng: random.Random) -> float:
    """Return how long a job rests after its attempt number ``attempts`` failed: exponential, with jitter.

    2 s after the first, doubled with each, 300 s at most, times a random factor from 0.5 to 1.5 so that jobs that
    failed together do not come back together.
    """
    return min(_LONGEST_S, _FIRST_S * 2.0 ** min(attempts - 1, 30)) * rng.uniform(0.5, 1.5)
