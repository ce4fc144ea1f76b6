"""Jobs for workers: lease one, keep it, bring back rows, end it."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path as FilePath
from typing import Annotated, Any

import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from latency_model.errors import TableError
from latency_model.service.api.auth import require
from latency_model.service.api.problems import PROBLEMS
from latency_model.service.state import Service, service_of
from latency_model.service.store import jobs as queue
from latency_model.service.store.jobs.states import Job
from latency_model.table import LatencyTable

__all__ = ["router"]

router = APIRouter(
    tags=["workers"],
    dependencies=[Depends(require("work"))],
    responses={409: {**PROBLEMS[400], "description": "The lease is over; nothing was changed"}},
)
_PARQUET = "application/vnd.apache.parquet"
_TABLE = {
    "requestBody": {
        "required": True,
        "content": {_PARQUET: {"schema": {"type": "string", "format": "binary"}}},
    }
}
# A worker sends some thousands at a time.
_MOST_ROWS, _MOST_BYTES = 100_000, 1 << 30
_Lease = Annotated[str, Path(pattern=r"^[\w.-]{1,64}$")]


class Offer(BaseModel):
    """What a worker can do: its environment, the precisions it times, and whether it times operators."""

    environment: dict[str, Any]
    precisions: list[str]
    times_ops: bool = False


class Asking(BaseModel):
    """A worker that asks for a job."""

    model_config = ConfigDict(extra="forbid")

    worker: str = Field(min_length=1, max_length=200, description="What people call it")
    offer: Offer


class LeaseBody(BaseModel):
    """A job to be measured. Send a heartbeat every third of ``lease_s`` seconds."""

    lease: str
    lease_s: float
    until: float
    job_id: str
    kind: str
    attempt: int
    configs: list[str]
    network: bool
    blob: str | None
    request: dict[str, Any]


class Kept(BaseModel):
    """The state of the job, and until when it is held; anything but ``leased`` tells the worker to stop."""

    state: str
    until: float


class PutBody(BaseModel):
    """What became of rows in the store."""

    key: str
    revision: int
    new: int
    replaced: int
    identical: int
    older: int
    ended: int


class PostedBody(BaseModel):
    """What became of rows in the store, and of the job."""

    rows: PutBody
    state: str
    total: int
    done: int


class Completion(BaseModel):
    """Why items without a row have none, by their text."""

    failures: dict[str, str] = Field(default_factory=dict, max_length=100_000)


class Failure(BaseModel):
    """Why an attempt failed."""

    reason: str = Field(min_length=1, max_length=10_000)


_Service = Annotated[Service, Depends(service_of)]


@router.post(
    "/v1/leases", response_model=LeaseBody, responses={204: {"description": "No job waits for such a worker"}}
)
def lease(asking: Asking, service: _Service) -> Any:
    """Give the worker the most urgent job that it can do."""
    lease_s = service.settings.lease_s
    found = queue.lease_job(
        service.database,
        queue.Offer.from_json(asking.offer.model_dump()),
        worker=queue.clean(asking.worker),
        now=time.time(),
        lease_s=lease_s,
    )
    return Response(status_code=204) if found is None else found.to_json() | {"lease_s": lease_s}


@router.post("/v1/leases/{lease}/heartbeat", response_model=Kept)
def heartbeat(lease: _Lease, service: _Service) -> Any:
    """Prolong a lease, and learn whether there is still something to measure."""
    state, until = queue.heartbeat(service.database, lease, now=time.time(), lease_s=service.settings.lease_s)
    return {"state": state, "until": until}


@router.post("/v1/leases/late/rows", response_model=PutBody, openapi_extra=_TABLE)
async def post_late(
    request: Request,
    service: _Service,
    worker: Annotated[str, Query(min_length=1, max_length=200)],
) -> Any:
    """Store rows whose lease is over: a latency is none the worse for being late. No job is touched."""
    path = await _uploaded(request, service)
    try:
        table = await run_in_threadpool(_table, path)
        report = await run_in_threadpool(queue.post_late, service.database, table, worker=worker)
    finally:
        path.unlink(missing_ok=True)
    _changed(service)
    return report.to_json()


@router.post("/v1/leases/{lease}/rows", response_model=PostedBody, openapi_extra=_TABLE)
async def post_rows(lease: _Lease, request: Request, service: _Service) -> Any:
    """Store rows, a latency table as Parquet, and what they mean for the job. Twice the same changes nothing."""
    path = await _uploaded(request, service)
    try:
        table = await run_in_threadpool(_table, path)
        posted = await run_in_threadpool(
            queue.post_rows,
            service.database,
            lease,
            table,
            now=time.time(),
            lease_s=service.settings.lease_s,
        )
    finally:
        path.unlink(missing_ok=True)
    _changed(service)
    return {
        "rows": posted.rows.to_json(),
        "state": posted.state,
        "total": posted.total,
        "done": posted.done,
    }


@router.post("/v1/leases/{lease}/complete", response_model=Job)
def complete(lease: _Lease, service: _Service, given: Completion | None = None) -> Any:
    """End a job all of whose items have a row or a reason why they have none."""
    failures = given.failures if given else {}
    return queue.complete(service.database, lease, now=time.time(), failures=failures)


@router.post("/v1/leases/{lease}/fail", response_model=Job)
def fail(lease: _Lease, given: Failure, service: _Service) -> Any:
    """End an attempt: the job is queued again after a rest, or has failed after its last attempt."""
    return queue.fail(service.database, lease, given.reason, now=time.time())


@router.post("/v1/leases/{lease}/release", response_model=Job)
def release(lease: _Lease, service: _Service) -> Any:
    """Give a job back without fault, for another worker to go on at once."""
    return queue.give_back(service.database, lease, now=time.time())


@router.get(
    "/v1/leases/{lease}/model",
    response_class=Response,
    responses={
        200: {
            "description": "The ONNX model without its weights",
            "content": {"application/octet-stream": {}},
        }
    },
)
def model(lease: _Lease, service: _Service) -> Response:
    """Return the model of a leased job: its ONNX file without the values of large weights."""
    return Response(queue.model_of(service.database, lease), media_type="application/octet-stream")


async def _uploaded(request: Request, service: Service) -> FilePath:
    folder = service.settings.cache_dir
    await run_in_threadpool(folder.mkdir, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".rows-", suffix=".parquet", delete=False) as file:
        path = FilePath(file.name)
        try:
            async for part in request.stream():
                await run_in_threadpool(file.write, part)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return path


def _table(path: FilePath) -> LatencyTable:
    """Return the table of a file; ``TableError`` for what is none, or claims more than a worker sends."""
    try:
        with pq.ParquetFile(path) as file:
            found = file.metadata
            count = found.num_rows
            size = sum(found.row_group(place).total_byte_size for place in range(found.num_row_groups))
    except Exception as error:  # pyarrow has its own types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TableError(f"the body is no Parquet file ({reason}); send a latency table") from error
    if count > _MOST_ROWS or size > _MOST_BYTES:
        raise TableError(
            f"the table has {count} rows and {size} bytes; send up to {_MOST_ROWS} rows at a time"
        )
    try:
        return LatencyTable.load(path)
    except TableError as error:
        raise TableError(str(error).replace(str(path), "the table")) from error


def _changed(service: Service) -> None:
    """Let the catalogue see the new rows at once."""
    service.catalog.wake()
