"""Lookups: one configuration, a list of them, or millions as Arrow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from latency_model.errors import InputError
from latency_model.lookup.arrow import columns_from_arrow, result_to_arrow
from latency_model.ops import Config, parse_config
from latency_model.service.api.auth import READS, authorise
from latency_model.service.api.problems import Busy, NotMeasured, Problem
from latency_model.service.catalog import Served
from latency_model.service.prepared import Latency
from latency_model.service.state import Service, service_of

__all__ = ["ARROW", "answer", "answer_one", "parsed", "router"]

ARROW = "application/vnd.apache.arrow.stream"
LONGEST = 2000
_MOST = 100_000
_EXAMPLE = "1x16x16x16 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw"


class Found(BaseModel):
    """The latency of one configuration with its 95 % interval."""

    config: str
    latency_us: float | None
    low_us: float | None
    high_us: float | None
    found: bool


class Many(BaseModel):
    """Configurations of one environment."""

    environment: str = Field(max_length=40)
    configs: list[str] = Field(max_length=_MOST)


def parsed(text: str) -> Config:
    """Return the configuration that ``text`` names; ``InputError`` for what is none."""
    if len(text) > LONGEST:
        raise InputError(f"a configuration has up to {LONGEST} characters, not {len(text)}")
    try:
        return parse_config(text)
    except ValueError as error:  # a number of more digits than Python reads, or too few words
        raise InputError(f"not a configuration: {text[:80]!r}; write it like {_EXAMPLE!r}") from error


def answer(config: Config, latency: Latency | None) -> bytes:
    """Return the JSON of one lookup; numbers as Python writes them, to the last bit."""
    # The text of a configuration has no character that JSON would escape.
    if latency is None:
        return f'{{"config":"{config.text}","latency_us":null,"low_us":null,"high_us":null,"found":false}}'.encode()
    us, low, high = latency
    return (
        f'{{"config":"{config.text}","latency_us":{us!r},"low_us":{low!r},"high_us":{high!r},"found":true}}'
    ).encode()


async def answer_one(scope: Scope, _: Receive, send: Send) -> None:
    """Answer a GET of ``/v1/lookup``, as an ASGI application; raises what is to be told the client."""
    body = await _one(scope)
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def _one(scope: Scope) -> bytes:
    service: Service = scope["app"].state.service
    settings = service.settings
    if not settings.public_reads or any(name == b"authorization" for name, _ in scope["headers"]):
        await authorise(scope, service, settings.reads_need)  # type: ignore[arg-type]
    key, text = _parameters(scope["query_string"])
    served = service.catalog.of(key)
    config = parsed(text)
    latency = served.find(config)
    if latency is None and not served.fresh:
        latency = await run_in_threadpool(service.catalog.ask, served, config)
    service.metrics.looked_up(found=latency is not None, missing=latency is None)
    if latency is None:
        raise NotMeasured(
            f"{config.text} was not measured in the environment {key}; POST /v1/jobs asks for it",
            config=config.text,
            environment=key,
        )
    return answer(config, latency)


def _parameters(query: bytes) -> tuple[str, str]:
    """Return the environment and the configuration of a query; the standard library takes thrice as long."""
    given = {}
    for part in query.decode("latin-1").split("&", 20):
        name, _, value = part.partition("=")
        given[name] = unquote(value.replace("+", " "))
    try:
        return given["environment"], given["config"]
    except KeyError as error:
        raise Problem(
            f"a lookup needs ?environment=KEY&config=TEXT, like config={_EXAMPLE!r}",
            status=422,
            type="invalid",
        ) from error


router = APIRouter(tags=["lookup"])


@router.get(
    "/v1/lookup",
    response_model=Found,
    dependencies=[READS],
)
def one(
    environment: Annotated[str, Query(description="The key of an environment", max_length=40)],
    config: Annotated[str, Query(description=f"A configuration, like {_EXAMPLE}", max_length=LONGEST)],
) -> Any:
    """Return the latency of a convolution or operator and its 95 % interval; 404 when it was not measured."""
    raise NotImplementedError("the limits hand every such request to answer_one")


def _listed(service: Service, served: Served, texts: Sequence[str]) -> bytes:
    parts, missing = [], 0
    for text in texts:
        config = parsed(text)
        latency = served.find(config)
        if latency is None and not served.fresh:
            latency = service.catalog.ask(served, config)
        missing += latency is None
        parts.append(answer(config, latency))
    service.metrics.looked_up(found=len(texts) - missing, missing=missing)
    return b"[" + b",".join(parts) + b"]"


@router.post("/v1/lookup", response_model=list[Found], dependencies=[READS])
def many(asked: Many, service: Annotated[Service, Depends(service_of)]) -> Any:
    """Return the latency of each of up to 100,000 configurations, in order; ``found`` says which there are."""
    body = _listed(service, service.catalog.of(asked.environment), asked.configs)
    return Response(body, media_type="application/json")


def _bulk(service: Service, served: Served, data: bytes) -> bytes:
    if served.lookups is None:
        raise Busy("the lookups of this environment are being built; ask again", headers={"Retry-After": "2"})
    columns = columns_from_arrow(data, most=service.settings.max_lookups)
    result = served.lookups.convs.lookup(columns)
    found = int(result.found.sum())
    service.metrics.looked_up(found=found, missing=len(result) - found)
    return result_to_arrow(result)


@router.post(
    "/v1/lookup/arrow",
    dependencies=[READS],
    response_class=Response,
    responses={200: {"content": {ARROW: {}}, "description": "latency_us, low_us, high_us, found"}},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {ARROW: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def arrow(
    request: Request,
    environment: Annotated[str, Query(max_length=40)],
    service: Annotated[Service, Depends(service_of)],
) -> Response:
    """Return the latencies of many convolutions: an Arrow stream in, an Arrow stream out.

    In go the columns batch, in_channels, height, width, out_channels, groups and kind, integers, the kinds as JSON in
    the schema's metadata; ``latency_model.lookup.arrow`` writes it. NaN stands where nothing was measured. While the
    lookups of a new revision are built, the last one answers.
    """
    served = service.catalog.of(environment)
    body = await run_in_threadpool(_bulk, service, served, await request.body())
    return Response(body, media_type=ARROW)
