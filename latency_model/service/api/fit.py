"""What the estimates of an environment rest on."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from latency_model.service.api.auth import READS
from latency_model.service.prepared import describe
from latency_model.service.state import Service, service_of

__all__ = ["router"]

router = APIRouter(tags=["estimates"])


class Fit(BaseModel):
    """The model of an environment; without ``ready`` nothing was asked of this revision, and the rest is null."""

    environment: str
    revision: int
    ready: bool
    rows: int | None = None
    ops: int | None = None
    networks: list[str] | None = None
    correction: dict[str, Any] | None = None
    families: bool | None = None
    regression: bool | None = None
    notes: list[str] | None = None
    layout: str | None = None
    precisions: list[str] | None = None


@router.get("/v1/environments/{key}/fit", response_model=Fit, dependencies=[READS])
def fit(
    key: str,
    service: Annotated[Service, Depends(service_of)],
    wait: Annotated[bool, Query(description="Fit the model first if it is not there")] = False,
) -> Any:
    """Return what the estimates of an environment rest on: its rows and the correction fitted on its networks.

    ``layout`` is the one that most rows have: who harvests a network elsewhere takes it.
    """
    catalog = service.catalog
    found: dict[str, Any] = {"environment": key, "revision": catalog.of(key).info.revision, "ready": False}
    if wait or catalog.has_model(key):
        fitted = catalog.model(key)
        found |= {"revision": fitted.info.revision, "ready": True, **describe(fitted.model)}
        found |= {"layout": fitted.layout, "precisions": list(fitted.precisions)}
    return found
