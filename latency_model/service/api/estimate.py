"""Estimates of networks: an ONNX model that is uploaded, or what a client harvested itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from latency_model.errors import InputError
from latency_model.harvest.onnx_skeleton import Skeleton
from latency_model.network_json import network_from_json
from latency_model.service.api.auth import READS
from latency_model.service.estimates import Answer, Asked
from latency_model.service.state import Service, service_of

__all__ = ["asked", "router"]

router = APIRouter(tags=["estimates"])
Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8"]


class Estimated(BaseModel, extra="allow"):
    """What ``gharial estimate --json`` prints; with ``explain``, what ``gharial explain --json`` prints.

    With ``channels`` there is also ``channels``: what counts nearby would save, as ``service.aligned`` says.
    """

    model: str
    batch: int
    precision: str
    latency_us: float
    low_us: float
    high_us: float
    raw_sum_us: float
    confidence: float
    family: str | None
    flags: list[str]
    unpriced: dict[str, int]
    correction: dict[str, Any]
    sites: list[dict[str, Any]]
    ops: list[dict[str, Any]]


def asked(
    environment: Annotated[str, Query(max_length=40, description="The key of an environment")],
    confidence: Annotated[float, Query(gt=0, lt=1, description="How often the interval shall hold")] = 0.9,
    family: Annotated[
        str | None, Query(max_length=100, description="Of which networks were measured")
    ] = None,
    explain: Annotated[bool, Query(description="Say of every part where it comes from")] = False,
    channels: Annotated[bool, Query(description="Say which channel counts nearby cost less")] = False,
    name: Annotated[str, Query(max_length=200, description="What messages call the model")] = "model.onnx",
) -> Asked:
    """Return what was asked beside the network."""
    return Asked(environment, name, confidence=confidence, family=family, explain=explain, channels=channels)


def _response(answer: Answer) -> Response:
    headers = {"X-Gharial-Revision": str(answer.revision), "X-Gharial-Kept": str(answer.kept).lower()}
    return Response(answer.body, media_type="application/json", headers=headers)


@router.post(
    "/v1/estimate",
    response_model=Estimated,
    dependencies=[READS],
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def estimate(
    request: Request,
    asked: Annotated[Asked, Depends(asked)],
    service: Annotated[Service, Depends(service_of)],
    batch: Annotated[int | None, Query(ge=1, le=2**20, description="By default the file's, or 1")] = None,
    precision: Annotated[Precision | None, Query(description="By default the file's")] = None,
) -> Any:
    """Return the latency of an ONNX model, the body, with its interval: as ``gharial estimate FILE --json`` does.

    Weights are skipped as they arrive; ``latency_model.harvest.onnx_skeleton`` takes them out before sending, which
    gives the same answer. Tensors in files beside the model are refused.
    """
    service.catalog.of(asked.environment)
    settings = service.settings
    skeleton = Skeleton(
        most_bytes=settings.max_onnx_bytes,
        most_kept=settings.max_skeleton_bytes,
        most_depth=settings.max_onnx_depth,
    )
    async for part in request.stream():
        skeleton.feed(part)
    wanted = replace(asked, batch=batch, precision=precision)
    try:
        answer = await service.estimates.of_onnx(skeleton.finish(), wanted)
    except InputError:
        service.metrics.harvests.labels("refused").inc()
        raise
    service.metrics.harvests.labels("kept" if answer.kept else "read").inc()
    return _response(answer)


@router.post(
    "/v1/estimate/network",
    response_model=Estimated,
    dependencies=[READS],
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    },
)
async def estimate_network(
    request: Request,
    asked: Annotated[Asked, Depends(asked)],
    service: Annotated[Service, Depends(service_of)],
) -> Any:
    """Return the latency of a network that was harvested elsewhere: the JSON of ``network_to_json``.

    With channel counts it is ``{"network": …, "counts": {GROUP: COUNT}}``; groups that are not named are whole.
    """
    service.catalog.of(asked.environment)
    body = await request.body()
    return _response(await run_in_threadpool(_of_network, service, body, asked))


def _of_network(service: Service, body: bytes, asked: Asked) -> Answer:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {error}") from error
    counts = None
    if isinstance(data, dict) and set(data) == {"network", "counts"}:
        data, counts = data["network"], _counts(data["counts"])
    return service.estimates.of_network(network_from_json(data), asked, counts)


def _counts(data: Any) -> dict[str, int]:
    if not isinstance(data, dict) or not all(type(count) is int for count in data.values()):
        raise InputError("counts are an object of channel groups and whole numbers")
    return data
