"""What the handlers of one application share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from fastapi import Request

from latency_model.service.catalog import Catalog
from latency_model.service.estimates import Estimates
from latency_model.service.metrics import Metrics
from latency_model.service.settings import Settings
from latency_model.service.store.database import Database
from latency_model.service.store.tokens import TokenBook, TokenInfo

__all__ = ["Service", "service_of"]


class _Checks(Protocol):
    async def check(self, secret: str) -> TokenInfo | None: ...


@dataclass(frozen=True, eq=False)
class Service:
    """The parts of a running service; ``create_app`` makes it, ``app.state.service`` holds it."""

    settings: Settings
    database: Database
    catalog: Catalog
    tokens: TokenBook
    checked: _Checks
    estimates: Estimates
    metrics: Metrics


def service_of(request: Request) -> Service:
    """Return the service that answers ``request``; a dependency of handlers."""
    found: Service = request.app.state.service
    return found
