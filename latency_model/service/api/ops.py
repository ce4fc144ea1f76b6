"""For who runs the service: is it alive, is it ready, what did it count."""

from __future__ import annotations

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from latency_model.service.api.auth import READS, authorise
from latency_model.service.api.problems import Forbidden
from latency_model.service.state import Service, service_of

__all__ = ["router"]

router = APIRouter(tags=["operations"])
_SILENT_S = 30.0


class Health(BaseModel):
    """The process answers; ``version`` is that of Gharial."""

    status: str
    version: str


class Readiness(BaseModel):
    """Whether requests are answered; ``environments`` says of each where from, to who may read."""

    status: str
    database: str
    environments: dict[str, str] | None = None


@router.get("/healthz", response_model=Health)
async def healthz(request: Request) -> Any:
    """Say that the process is alive, and which version it is of; nothing is looked at."""
    return {"status": "ok", "version": request.app.version}


def _state(service: Service, key: str) -> str:
    served = service.catalog.served[key]
    if served.fresh:
        return "ready"
    if served.lookups is None:
        return "building: answered from the database, row by row"
    return f"building: answered from revision {served.lookups.info.revision}, what it lacks from the database"


@router.get(
    "/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready"}}
)
async def readyz(request: Request, service: Annotated[Service, Depends(service_of)]) -> Any:
    """Say whether requests are answered: the database did so lately, and every environment is known.

    An environment whose lookups are being built is served from the database; that is slower, and ready.
    """
    silent = time.monotonic() - service.catalog.polled_at
    answers = silent < max(_SILENT_S, 5 * service.settings.poll_s)
    found: dict[str, Any] = {
        "status": "ready" if answers else "not ready",
        "database": "answers" if answers else f"silent for {silent:.0f} s",
    }
    try:
        await authorise(request.scope, service, service.settings.reads_need)  # type: ignore[arg-type]
        found["environments"] = {key: _state(service, key) for key in service.catalog.served}
    except Forbidden:
        pass
    return JSONResponse(found, 200 if answers else 503)


@router.get(
    "/metrics",
    dependencies=[READS],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"}},
)
def metrics(service: Annotated[Service, Depends(service_of)]) -> Response:
    """Return the counters for Prometheus; who may not read may not read these either: they name environments."""
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
