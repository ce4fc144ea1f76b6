"""The staircase of one convolution site."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from latency_model.errors import InputError
from latency_model.service.api.auth import READS
from latency_model.service.api.lookup import LONGEST, parsed
from latency_model.service.api.problems import Busy
from latency_model.service.stairs import stairs
from latency_model.service.state import Service, service_of
from latency_model.shapes import ConvShape

__all__ = ["router"]

router = APIRouter(tags=["lookup"])


class Stairs(BaseModel):
    """Parallel lists, the counts ascending; see the description of the path."""

    environment: str
    config: str
    axis: str
    at: int
    counts: list[int]
    latency_us: list[float]
    low_us: list[float]
    high_us: list[float]
    envelope_us: list[float]
    efficient: list[int]
    others: list[int]


@router.get("/v1/staircase", response_model=Stairs, dependencies=[READS])
def staircase(
    environment: Annotated[str, Query(max_length=40)],
    config: Annotated[str, Query(max_length=LONGEST)],
    service: Annotated[Service, Depends(service_of)],
    axis: Annotated[Literal["out", "in"], Query(description="The channels that change")] = "out",
) -> Any:
    """Return the measured latencies of a convolution's site over one channel count, the other as it is.

    ``envelope_us`` is what padding with zero channels reaches, ``efficient`` the counts that no larger one matches
    within 2 %, ``others`` the counts of the other side that were measured. Of a depthwise convolution both sides
    change.
    """
    served = service.catalog.of(environment)
    shape = parsed(config)
    if not isinstance(shape, ConvShape):
        raise InputError(f"a staircase is of a convolution, not of {config[:80]!r}")
    if served.lookups is None:
        raise Busy("the lookups of this environment are being built; ask again", headers={"Retry-After": "2"})
    return {"environment": environment, **stairs(served.lookups, shape, axis)}
