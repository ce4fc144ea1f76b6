"""Whole tables: exports of an environment's rows, and imports."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response, StreamingResponse

from latency_model.errors import TableError
from latency_model.service.api.auth import READS, require
from latency_model.service.exporting import exported_csv, exported_json, exported_parquet
from latency_model.service.state import Service, service_of
from latency_model.service.store.rows import PutReport, put_file
from latency_model.service.store.tokens import TokenInfo

__all__ = ["router"]

router = APIRouter(tags=["tables"])
PARQUET = "application/vnd.apache.parquet"
_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": PARQUET, "json": "application/json"}
# Of one row, in memory: more is no table of latencies but a bomb.
_MOST_BYTES_A_ROW = 100_000


class Imported(BaseModel):
    """What an import changed; rows that lost to later ones are ``older``."""

    key: str
    revision: int
    new: int
    replaced: int
    identical: int
    older: int
    ended: int


@router.get(
    "/v1/environments/{key}/rows",
    dependencies=[READS],
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "The rows",
            "content": {"text/csv": {}, PARQUET: {}, "application/json": {}},
        }
    },
)
def rows(
    key: str,
    service: Annotated[Service, Depends(service_of)],
    format: Annotated[Literal["csv", "parquet", "json"], Query()] = "csv",
) -> Response:
    """Return convolutions and operators with all that is known of them, a column a property, as they are read.

    Columns and values are those of ``gharial tables export``, the order is the store's; networks and failures are in
    JSON only.
    """
    info = service.catalog.of(key).info
    if format == "csv":
        parts = exported_csv(service.database, key)
    elif format == "parquet":
        parts = exported_parquet(service.database, key, info.environment)
    else:
        parts = exported_json(service.database, key, service.catalog.table_file(key))
    name = f'attachment; filename="gharial-{info.key}.{format}"'
    return StreamingResponse(parts, media_type=_TYPES[format], headers={"Content-Disposition": name})


@router.get(
    "/v1/environments/{key}/table",
    dependencies=[READS],
    response_class=FileResponse,
    responses={
        200: {"description": "A latency table", "content": {PARQUET: {}}},
        304: {"description": "It is the one that If-None-Match names"},
    },
)
def table(
    key: str,
    service: Annotated[Service, Depends(service_of)],
    if_none_match: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Return the whole table, with networks and failures: the file that ``--table`` of every command takes.

    The ETag names the revision; with it as If-None-Match a table that has not changed is not sent again.
    """
    path = service.catalog.table_file(key)
    headers = {"ETag": f'"{path.stem}"', "Cache-Control": "no-cache"}
    if if_none_match is not None and headers["ETag"] in re.split(r"\s*,\s*", if_none_match.strip()):
        return Response(status_code=304, headers=headers)
    return FileResponse(path, media_type=PARQUET, filename=f"gharial-{key}.parquet", headers=headers)


@router.post(
    "/v1/tables",
    response_model=Imported,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {PARQUET: {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def import_table(
    request: Request,
    token: Annotated[TokenInfo, Depends(require("rows:write"))],
    service: Annotated[Service, Depends(service_of)],
    source: Annotated[str | None, Query(max_length=200, description="Where the rows come from")] = None,
) -> Any:
    """Import a latency table, the body, a Parquet file that Gharial wrote. Of two rows the later measured one stays.

    Sending the same table twice changes nothing the second time.
    """
    folder = service.settings.cache_dir
    await run_in_threadpool(folder.mkdir, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".upload-", suffix=".parquet") as file:
        async for part in request.stream():
            await run_in_threadpool(file.write, part)
        await run_in_threadpool(file.flush)
        report = await run_in_threadpool(_imported, service, Path(file.name), source or f"http: {token.name}")
    return report.to_json()


def _imported(service: Service, path: Path, source: str) -> PutReport:
    _check(path, service.settings.max_table_rows)
    try:
        report = put_file(service.database, path, source=source)
    except TableError as error:
        raise TableError(str(error).replace(str(path), "the table")) from error
    service.catalog.refresh()
    service.catalog.wake()
    return report


def _check(path: Path, most: int) -> None:
    """Raise ``TableError`` for what claims more rows, or more bytes of them, than any table has."""
    try:
        with pq.ParquetFile(path) as file:
            found = file.metadata
            count = found.num_rows
            size = sum(found.row_group(place).total_byte_size for place in range(found.num_row_groups))
    except Exception as error:  # pyarrow has its own types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TableError(
            f"the body is no Parquet file ({reason}); send what gharial profile wrote"
        ) from error
    if count > most:
        raise TableError(f"the table has {count} rows; send up to {most} at a time")
    if size > _MOST_BYTES_A_ROW * max(count, 1) or count < 0:
        raise TableError(f"the table claims {size} bytes for {count} rows; is it damaged? send it again")
