"""The environments that have rows."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends
from pydantic import BaseModel

from latency_model.service.api.auth import READS
from latency_model.service.catalog import Served
from latency_model.service.state import Service, service_of

__all__ = ["router"]

router = APIRouter(tags=["environments"])


class EnvironmentSummary(BaseModel):
    """An environment and how many rows it has; times are seconds since the epoch."""

    key: str
    text: str
    environment: dict[str, Any]
    revision: int
    convs: int
    ops: int
    networks: int
    failures: int
    changed_at: float
    fresh: bool


class EnvironmentDetail(EnvironmentSummary):
    """What its convolutions are of; empty while its lookups are built for the first time."""

    precisions: list[str]
    layouts: list[str]
    batches: list[int]


def summary(served: Served) -> dict[str, Any]:
    """Return an environment, JSON-ready."""
    info = served.info
    return {
        "key": info.key,
        "text": info.environment.text,
        "environment": info.environment.to_json(),
        "revision": info.revision,
        "convs": info.convs,
        "ops": info.ops,
        "networks": info.networks,
        "failures": info.failures,
        "changed_at": info.changed_at,
        "fresh": served.fresh,
    }


def detail(served: Served) -> dict[str, Any]:
    """Return an environment with what its convolutions have."""
    found: dict[str, Any] = {"precisions": [], "layouts": [], "batches": []}
    if served.lookups is not None:
        columns = served.lookups.columns
        kinds = columns.kinds
        found["precisions"] = sorted({kind.precision for kind in kinds})
        found["layouts"] = sorted({kind.layout for kind in kinds})
        found["batches"] = np.unique(columns.batch).tolist()
    return {**summary(served), **found}


@router.get("/v1/environments", response_model=list[EnvironmentSummary], dependencies=[READS])
def environments(service: Annotated[Service, Depends(service_of)]) -> Any:
    """Return every environment: a device with its runtime and all versions that change a latency."""
    return [summary(served) for served in service.catalog.served.values()]


@router.get("/v1/environments/{key}", response_model=EnvironmentDetail, dependencies=[READS])
def environment(key: str, service: Annotated[Service, Depends(service_of)]) -> Any:
    """Return one environment, and which precisions, layouts and batches its convolutions have."""
    return detail(service.catalog.of(key))
