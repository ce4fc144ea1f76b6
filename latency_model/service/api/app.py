"""The application: all routers, the limits around them, and what starts and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from latency_model.service.api import (
    environments,
    estimate,
    fit,
    jobs,
    leases,
    lookup,
    ops,
    page,
    sites,
    staircase,
    tables,
)
from latency_model.service.api.auth import Checked
from latency_model.service.api.limits import Limits
from latency_model.service.api.problems import PROBLEMS, add_handlers
from latency_model.service.catalog import Catalog
from latency_model.service.estimates import Estimates
from latency_model.service.harvesting import Harvesters
from latency_model.service.metrics import Metrics
from latency_model.service.settings import Settings
from latency_model.service.state import Service
from latency_model.service.store.database import Database, open_database
from latency_model.service.store.jobs import drop_models, sweep
from latency_model.service.store.tokens import TokenBook

__all__ = ["ROUTERS", "create_app"]

_log = logging.getLogger("gharial.service")
_UPKEEP_S = 30.0

# What the application answers: a new router is one more line.
ROUTERS = (
    lookup.router,
    environments.router,
    sites.router,
    tables.router,
    staircase.router,
    estimate.router,
    fit.router,
    jobs.router,
    leases.router,
    ops.router,
    page.router,
)


def create_app(settings: Settings | None = None, database: Database | None = None) -> FastAPI:
    """Return the service as an ASGI application; ``database`` is by default that of ``settings``.

    The database is brought up to date and the tables are mapped when the application starts, not here. A database
    that was given is left open at the end.
    """
    settings = settings or Settings()
    own = database is None
    database = database or open_database(settings.database_url)
    service = _service(settings, database)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(database.migrate)
        await run_in_threadpool(service.catalog.start)
        tasks = [asyncio.create_task(_upkeep(service)), asyncio.create_task(_warm(service))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await service.estimates.harvesters.close()
            await run_in_threadpool(service.catalog.stop)
            with contextlib.suppress(Exception):
                await run_in_threadpool(service.tokens.flush)
            if own:
                database.close()

    app = FastAPI(
        title="Gharial",
        summary="How long a convolution takes on each device; estimates, tables, and what is missing measured.",
        version=_version(),
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        responses=PROBLEMS,
    )
    app.state.service = service
    add_handlers(app)
    app.add_middleware(Limits, service=service, direct={"/v1/lookup": lookup.answer_one})
    for router in ROUTERS:
        app.include_router(router)
    return app


def _service(settings: Settings, database: Database) -> Service:
    catalog = Catalog(database, settings.cache_dir, settings.poll_s)
    harvesters = Harvesters(
        settings.harvest_workers,
        settings.harvest_timeout_s,
        settings.harvest_memory_bytes,
        settings.max_onnx_depth,
    )
    half = settings.token_cache_s / 2  # the book and what was checked age one after the other
    tokens = TokenBook(database, stale_s=half)
    return Service(
        settings,
        database,
        catalog,
        tokens,
        Checked(tokens, keep_s=half),
        Estimates(catalog, harvesters),
        Metrics(catalog, database),
    )


async def _upkeep(service: Service) -> None:
    """Note when tokens were used, end jobs whose last worker is gone (no other worker may ever ask), drop models."""
    while True:
        await asyncio.sleep(_UPKEEP_S)
        try:
            await run_in_threadpool(service.tokens.flush)
            await run_in_threadpool(sweep, service.database, now=time.time())
            keep_s = service.settings.keep_models_s
            await run_in_threadpool(drop_models, service.database, now=time.time(), keep_s=keep_s)
        except Exception:  # the database may be away; the next time does it all
            _log.exception("could not tend tokens and jobs")


async def _warm(service: Service) -> None:
    """Start what the first estimate needs, once there is nothing more urgent."""
    await asyncio.sleep(1.0)
    try:
        await service.estimates.harvesters.start()
        await run_in_threadpool(import_module, "latency_model.model")
    except OSError:
        _log.exception("could not start a process that reads ONNX models")


def _version() -> str:
    try:
        return version("gharial")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0"
