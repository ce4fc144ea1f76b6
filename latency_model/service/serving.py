"""Runs the service: one process, on the addresses of its settings, until it is told to end."""

from __future__ import annotations

import hashlib
import logging
import signal
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from sqlalchemy import select

from latency_model.errors import GharialError
from latency_model.service.api.app import create_app
from latency_model.service.logs import set_up_logs
from latency_model.service.protocol import guarded
from latency_model.service.settings import Settings
from latency_model.service.store.database import Database, open_database
from latency_model.service.store.rows import put_file
from latency_model.service.store.schema import runs
from latency_model.shipped import shipped_tables

__all__ = ["import_shipped", "serve", "server_of"]

_log = logging.getLogger("gharial.service")


def import_shipped(database: Database) -> int:
    """Import the tables that come with Gharial, each once; return how many were new to the database."""
    count = 0
    for path in shipped_tables():
        run_id = f"shipped-{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"
        with database.read() as connection:
            if connection.execute(select(runs.c.id).where(runs.c.id == run_id)).first() is not None:
                continue
        put_file(database, path, source=f"shipped: {path.name}", run_id=run_id)
        count += 1
    return count


def server_of(app: FastAPI, settings: Settings) -> uvicorn.Server:
    """Return the server of ``app``; ``run`` starts it."""
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=guarded(
            header_timeout_s=settings.header_timeout_s,
            send_timeout_s=settings.send_timeout_s,
            max_header_bytes=settings.max_header_bytes,
        ),
        ws="none",
        lifespan="on",
        limit_concurrency=settings.max_connections,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.shutdown_s,
        access_log=False,
        server_header=False,
        log_config=None,
    )
    return uvicorn.Server(config)


def serve(settings: Settings, *, started: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT; requests that are being answered are finished first.

    ``started`` is told the address. Raises ``GharialError`` when the database or the address cannot be used.
    """
    database = open_database(settings.database_url)
    set_up_logs(level=settings.log_level, as_json=settings.log_json)
    try:
        database.migrate()
        if settings.import_shipped:
            import_shipped(database)
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        server = server_of(create_app(settings, database), settings)
        sockets = [server.config.bind_socket()] if settings.port == 0 else None
        port = settings.port if sockets is None else sockets[0].getsockname()[1]
        started(f"http://{settings.host}:{port}")
        # uvicorn ends by these signals and then raises them again, which would end the process half closed.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        server.run(sockets)
        if not server.started:
            raise GharialError(f"the service could not start on {settings.host}:{port}; the log says why")
    finally:
        database.close()
