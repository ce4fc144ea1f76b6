"""Tables of a server: exported, imported, and kept in this user's cache, sent anew only when they changed."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError, ServerError, TableError
from latency_model.files import write_atomic
from latency_model.table import LatencyTable
from latency_model.table_columns import in_order
from latency_model.table_file import open_columns

if TYPE_CHECKING:
    from latency_model.client.transport import Transport

__all__ = ["cache_folder", "export", "import_table", "load_table"]

# What the service gives as ETag, and what a file may be called.
_TAG = re.compile(r'"([\w.-]{1,100})"')


def cache_folder() -> Path:
    """Return the folder of this user's cache, by the XDG rules."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # a process without a home
        base = Path(tempfile.gettempdir())
    return base / "gharial" / "tables"


def load_table(transport: Transport, key: str, folder: Path) -> LatencyTable:
    """Return the table of an environment as the server has it now, rows in the order of their shapes.

    The file of the revision is kept in ``folder``, one for each server and environment; nothing is kept where that
    cannot be written. Raises ``TableError`` for a server's table of a later version of Gharial.
    """
    place = folder / hashlib.sha256(transport.url.encode()).hexdigest()[:16]
    kept = _newest(place, key)
    if kept is not None:
        path = _asked(transport, key, place, kept)
        with suppress(TableError):
            return _ordered(LatencyTable.load(path))
        path.unlink(missing_ok=True)  # damaged since it was written
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    if os.access(place, os.W_OK):
        return _ordered(LatencyTable.load(_asked(transport, key, place, None)))
    with tempfile.TemporaryDirectory(prefix="gharial-") as temporary:
        return _ordered(LatencyTable.load(_asked(transport, key, Path(temporary), None)))


def export(transport: Transport, key: str, path: Path, kind: str | None) -> Path:
    """Write the rows of an environment to ``path``, by default as its ending says; whole, or not at all."""
    kind = kind or path.suffix.lower().lstrip(".")
    if kind not in ("csv", "parquet", "json"):
        raise InputError(f"cannot export to {path.name}; its ending must be .csv, .parquet or .json")
    with transport.stream(f"/v1/environments/{key}/rows", query={"format": kind}) as (_, parts):
        write_atomic(path, lambda target: _save(parts, target))
    return path


def import_table(
    transport: Transport, table: LatencyTable | Path | str, source: str | None
) -> dict[str, Any]:
    """Send a table, or the file of one, and return what it changed."""
    with tempfile.TemporaryDirectory(prefix="gharial-") as folder:
        if isinstance(table, LatencyTable):
            path = Path(folder) / "table.parquet"
            table.save(path)
        else:
            path = Path(table)
        if not path.is_file():
            raise InputError(f"no latency table at {path}; make one with: gharial profile MODEL --out {path}")
        headers = {"Content-Type": "application/vnd.apache.parquet"}
        given = transport.json("POST", "/v1/tables", query={"source": source}, body=path, headers=headers)
    return transport.read(dict, given)


def _asked(transport: Transport, key: str, place: Path, kept: Path | None) -> Path:
    """Return ``kept`` if it is what the server has, else the file that it sends."""
    headers = {} if kept is None else {"If-None-Match": f'"{kept.stem}"'}
    path = f"/v1/environments/{key}/table"
    with transport.stream(path, headers=headers, accept=(304,)) as (answer, parts):
        if answer.status == 304 and kept is not None:
            return kept
        tag = _TAG.fullmatch(answer.headers.get("etag", ""))
        # A tag that is not the service's own names no revision: its file is never taken for a later answer.
        known = tag is not None and tag[1].startswith(f"{key}-")
        target = place / f"{tag[1] if tag and known else key}.parquet"
        write_atomic(target, lambda temporary: _write(parts, temporary, key, transport.url))
    for other in _files(place, key):
        if other != target:
            other.unlink(missing_ok=True)
    return target


def _save(parts: Iterator[bytes], path: Path) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)


def _write(parts: Iterator[bytes], path: Path, key: str, url: str) -> None:
    _save(parts, path)
    try:
        with open_columns(path) as (environment, _):
            found = environment.key
    except TableError as error:
        if "later version" in str(error):
            raise TableError(
                f"the table of {url} was written by a later version of Gharial; update with: pip install -U gharial"
            ) from error
        raise ServerError(
            f"{url} sent no latency table ({error.__cause__ or 'a file of another kind'})"
        ) from error
    if found != key:
        raise ServerError(f"{url} sent the table of the environment {found}, not of {key}")


def _files(place: Path, key: str) -> list[Path]:
    return [path for path in place.glob(f"{key}-*.parquet") if _TAG.fullmatch(f'"{path.stem}"')]


def _newest(place: Path, key: str) -> Path | None:
    found = {}
    for path in _files(place, key):
        with suppress(OSError):
            found[path] = path.stat().st_mtime
    return max(found, key=lambda path: found[path]) if found else None


def _ordered(table: LatencyTable) -> LatencyTable:
    # As ``LatencyTable.save`` writes them, so that every sum over rows is that of the same table as a file.
    rows = {shape: table.rows[shape] for shape in in_order(table.rows)}
    return replace(table, rows=rows, ops={op: table.ops[op] for op in in_order(table.ops)})
