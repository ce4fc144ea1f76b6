"""Jobs for those who want something measured: submit, watch, cancel."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from latency_model.errors import InputError
from latency_model.harvest.onnx_skeleton import Skeleton
from latency_model.service.api.auth import READS, require
from latency_model.service.api.problems import PROBLEMS, Problem, ProblemBody, TooLarge
from latency_model.service.state import Service, service_of
from latency_model.service.store import jobs as queue
from latency_model.service.store.jobs.states import Job, State
from latency_model.service.store.tokens import TokenInfo

__all__ = ["router"]

router = APIRouter(
    tags=["jobs"], responses={409: {**PROBLEMS[400], "description": "It contradicts what there is"}}
)
_ONNX = ("application/octet-stream", "application/onnx", "application/x-onnx")
_ID = Annotated[str, Path(pattern="^[0-9a-f]{1,32}$")]


class Submission(BaseModel):
    """Configurations to be measured, and what a worker must offer to measure them."""

    model_config = ConfigDict(extra="forbid")

    configs: list[str] = Field(
        min_length=1, max_length=100_000, examples=[["1x64x56x56 ->64 k3 s1 p1 g1 conv fp32 nchw"]]
    )
    wants: dict[str, Any] = Field(default_factory=dict, examples=[{"device": "H100", "runtime": "tensorrt"}])
    priority: int = Field(0, ge=-1000, le=1000, description="The largest first")
    max_attempts: int = Field(5, ge=1, le=100, description="In a row, without a new row")


class Item(BaseModel):
    """What has become of one configuration of a job."""

    config: str
    state: Literal["waiting", "stored", "failed"]
    error: str | None


_SUBMISSION = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": Submission.model_json_schema()},
            _ONNX[0]: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.post(
    "/v1/jobs",
    response_model=Job,
    status_code=201,
    responses={
        200: {"model": Job, "description": "The job that the idempotency key made before"},
        415: {"model": ProblemBody, "description": "Neither JSON nor an ONNX model"},
    },
    openapi_extra=_SUBMISSION,
)
async def submit(
    request: Request,
    response: Response,
    token: Annotated[TokenInfo, Depends(require("jobs:write"))],
    service: Annotated[Service, Depends(service_of)],
    idempotency_key: Annotated[str | None, Header(max_length=128)] = None,
    name: Annotated[str, Query(max_length=80, description="Of an ONNX model")] = "model",
    batch: Annotated[
        int | None, Query(ge=1, le=2**20, description="Of an ONNX model that fixes none")
    ] = None,
    precision: Annotated[str | None, Query(max_length=8, description="By default the model's")] = None,
    wants: Annotated[str | None, Query(max_length=4000, description="Of an ONNX model, as JSON")] = None,
    priority: Annotated[int, Query(ge=-1000, le=1000, description="Of an ONNX model")] = 0,
    max_attempts: Annotated[int, Query(ge=1, le=100, description="Of an ONNX model")] = 5,
) -> Any:
    """Have configurations measured (JSON), or a whole ONNX model (its bytes; everything else in the query).

    Of a model the weights are skipped as they arrive and not kept: they do not change its latency. What is
    measured already is not measured again. With an ``Idempotency-Key`` the same request makes one job, however
    often it is sent.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        body = await _json_body(request, service.settings.max_body_bytes)
        asked = await run_in_threadpool(_configs, body)
    elif kind in _ONNX:
        data = await _skeleton(request, service)
        wanted = queue.Wants.from_json(_wants(wants))
        if precision is None and len(wanted.precisions) == 1:
            precision = wanted.precisions[0]
        cost = await service.estimates.harvesters.harvest(
            data, batch=batch, precision=precision, layout="nchw"
        )
        asked = queue.model_request(
            data, cost, wanted, name=name, priority=priority, max_attempts=max_attempts
        )
    else:
        raise Problem(
            f"send configurations as application/json, or an ONNX model as {_ONNX[0]}",
            status=415,
            type="unsupported-media-type",
        )
    job, new = await run_in_threadpool(
        queue.submit,
        service.database,
        asked,
        now=time.time(),
        idempotency_key=idempotency_key,
        created_by=token.id,
    )
    response.status_code = 201 if new else 200
    return job


async def _json_body(request: Request, most: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise TooLarge(f"a job's configurations take up to {most} bytes; make several jobs")
    return bytes(body)


def _configs(body: bytes) -> queue.JobRequest:
    try:
        data = Submission.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise Problem(f"{where}: {first['msg']}", status=422, type="invalid") from None
    wants = queue.Wants.from_json(data.wants)
    return queue.configs_request(data.configs, wants, priority=data.priority, max_attempts=data.max_attempts)


async def _skeleton(request: Request, service: Service) -> bytes:
    settings = service.settings
    found = Skeleton(
        most_bytes=settings.max_onnx_bytes,
        most_kept=settings.max_skeleton_bytes,
        most_depth=settings.max_onnx_depth,
    )
    async for part in request.stream():
        found.feed(part)
    return found.finish()


def _wants(text: str | None) -> Any:
    try:
        return {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"wants is no JSON: {error}") from error


@router.get("/v1/jobs", response_model=list[Job], dependencies=[READS])
def jobs(
    service: Annotated[Service, Depends(service_of)],
    state: Annotated[State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[
        str | None, Query(pattern="^[0-9a-f]{1,32}$", description="The last job of the page before")
    ] = None,
) -> Any:
    """Return jobs, the latest first, without their failures."""
    return queue.list_jobs(service.database, state=state, limit=limit, before=before)


@router.get("/v1/jobs/{job}", response_model=Job, dependencies=[READS])
def job(job: _ID, service: Annotated[Service, Depends(service_of)]) -> Any:
    """Return one job."""
    return queue.get_job(service.database, job)


@router.get("/v1/jobs/{job}/items", response_model=list[Item], dependencies=[READS])
def items(job: _ID, service: Annotated[Service, Depends(service_of)]) -> Any:
    """Return what has become of each configuration of a job."""
    queue.get_job(service.database, job)
    return queue.job_items_of(service.database, job)


@router.post("/v1/jobs/{job}/cancel", response_model=Job)
def cancel(
    job: _ID,
    _: Annotated[TokenInfo, Depends(require("jobs:write"))],
    service: Annotated[Service, Depends(service_of)],
) -> Any:
    """Cancel a job; a worker that holds it stops at its next heartbeat, and its rows so far are stored."""
    return queue.cancel(service.database, job, now=time.time())
