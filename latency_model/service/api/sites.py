"""The convolution sites that an environment was measured at: what there is to choose from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from latency_model.service.api.auth import READS
from latency_model.service.api.problems import Busy
from latency_model.service.sites import sites
from latency_model.service.state import Service, service_of

__all__ = ["router"]

router = APIRouter(tags=["environments"])


class MeasuredSite(BaseModel):
    """A site by its largest measured convolution, in words, and how many rows it has."""

    config: str
    title: str
    rows: int


class MeasuredSites(BaseModel):
    """The sites with the most rows, and how many there are in all."""

    total: int
    sites: list[MeasuredSite]


@router.get("/v1/environments/{key}/sites", response_model=MeasuredSites, dependencies=[READS])
def measured_sites(
    key: str,
    service: Annotated[Service, Depends(service_of)],
    batch: Annotated[int | None, Query(ge=1, le=2**31)] = None,
    precision: Annotated[str | None, Query(max_length=8)] = None,
) -> Any:
    """Return the convolution sites that have rows, those with the most first, at most 500."""
    served = service.catalog.of(key)
    if served.lookups is None:
        raise Busy("the lookups of this environment are being built; ask again", headers={"Retry-After": "2"})
    return sites(served.lookups, batch=batch, precision=precision)
