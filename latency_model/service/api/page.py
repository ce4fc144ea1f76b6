"""The page: one HTML document, its scripts and styles, and Plotly's script from its Python package.

Nothing comes from elsewhere and nothing inline runs: the Content-Security-Policy of the document says so. Inline style
is not needed either: Plotly adds its rules to the style sheet that has the id it looks for, which is a file of ours,
and its library of maps, which nothing here uses, adds none when an element has the id of its own sheet. A file's
address holds the hash of what it belongs to, so browsers keep it for a year.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from latency_model.plots.style import COLOURS
from latency_model.service.api.problems import Problem
from latency_model.shapes import LAYOUTS, PATTERNS, PRECISIONS

__all__ = ["POLICY", "Asset", "assets", "index", "router"]

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
)
_TYPES: Mapping[str, str] = MappingProxyType(
    {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
)
_TEMPLATE = "index.html.jinja"
_PLOTLY = "plotly.min.js"
# The ids of style sheets that parts of Plotly's bundle would add as inline ones.
_SHEET = re.compile(rb'getElementById\("([0-9a-f]{64})"\)')
_YEAR = "public, max-age=31536000, immutable"

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Asset:
    """One file as it is sent."""

    body: bytes
    packed: bytes
    media_type: str


def _asset(name: str, body: bytes) -> Asset:
    kind = _TYPES[name[name.rindex(".") :]]
    return Asset(body, gzip.compress(body, 6, mtime=0), f"{kind}; charset=utf-8")


def _digest(parts: Mapping[str, bytes]) -> str:
    found = hashlib.sha256()
    for name in sorted(parts):
        found.update(f"{name}\0{len(parts[name])}\0".encode() + parts[name])
    return found.hexdigest()[:16]


@lru_cache(maxsize=1)
def _own() -> tuple[str, Mapping[str, Asset]]:
    """Return the digest of the page's own files, which scripts that import each other share, and the files."""
    folder = files("latency_model.service").joinpath("page")
    bodies = {item.name: item.read_bytes() for item in folder.iterdir() if item.name.endswith(tuple(_TYPES))}
    return _digest(bodies), {name: _asset(name, body) for name, body in bodies.items()}


def _plotly_body() -> bytes:
    return files("plotly").joinpath("package_data", _PLOTLY).read_bytes()


@lru_cache(maxsize=1)
def _plotly_digest() -> str:
    return _digest({_PLOTLY: _plotly_body()})


@lru_cache(maxsize=1)
def _plotly() -> Asset:
    return _asset(_PLOTLY, _plotly_body())


def assets(digest: str, name: str) -> Asset | None:
    """Return a file by the last two parts of its address, None where there is none."""
    if name == _PLOTLY:
        return _plotly() if digest == _plotly_digest() else None
    known, found = _own()
    return found.get(name) if digest == known else None


@lru_cache(maxsize=1)
def index() -> Asset:
    """Return the document."""
    from jinja2 import Environment, StrictUndefined

    source = files("latency_model.service").joinpath("page", _TEMPLATE).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = environment.from_string(source).render(
        assets=f"/assets/{_own()[0]}",
        sheets=sorted({found.decode() for found in _SHEET.findall(_plotly_body())}),
        plotly=f"/assets/{_plotly_digest()}/{_PLOTLY}",
        colours=" ".join(COLOURS),
        patterns=PATTERNS,
        precisions=PRECISIONS,
        layouts=LAYOUTS,
    )
    body = text.encode()
    return Asset(body, gzip.compress(body, 6, mtime=0), "text/html; charset=utf-8")


def _answer(request: Request, asset: Asset, cache: str) -> Response:
    tag = f'"{hashlib.sha256(asset.body).hexdigest()[:32]}"'
    headers = {**_HEADERS, "Cache-Control": cache, "ETag": tag, "Vary": "Accept-Encoding"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.packed, headers=headers, media_type=asset.media_type)
    return Response(asset.body, headers=headers, media_type=asset.media_type)


@router.api_route("/", methods=["GET", "HEAD"])
async def document(request: Request) -> Response:
    """Return the page; it holds no data, so it needs no token."""
    return _answer(request, await run_in_threadpool(index), "no-cache")


@router.api_route("/assets/{digest}/{name}", methods=["GET", "HEAD"])
async def asset(digest: str, name: str, request: Request) -> Response:
    """Return a script, a style sheet or a picture of the page."""
    found = await run_in_threadpool(assets, digest, name)
    if found is None:
        raise Problem("the page has no such file; load the page again", status=404, type="not-found")
    return _answer(request, found, _YEAR)
