"""The application in this process, and a real server in a thread."""

import contextlib
import socket
import threading
import time

import httpx
import pytest
from starlette.testclient import TestClient

from latency_model.harvest import harvest
from latency_model.ops import OpShape
from latency_model.service.api.app import create_app
from latency_model.service.serving import server_of
from latency_model.service.settings import Settings
from latency_model.service.store.database import open_database
from latency_model.service.store.rows import put
from latency_model.service.store.tokens import create_token
from latency_model.table import LatencyTable
from latency_model.zoo import load_model


@pytest.fixture(scope="session")
def resnet20():
    return harvest(load_model("resnet20"))


@pytest.fixture(scope="session")
def table(synthetic, resnet20):
    """Return a table that can estimate ResNet-20, with an operator, a network and a failure."""
    made = synthetic.table_of(resnet20, step=16, whole=lambda total: 1.2 * total)
    add = OpShape("Add", ((1, 16, 8, 8), (1, 16, 8, 8)))
    failures = {synthetic.shape.with_channels(512, 512): "out of memory"}
    return LatencyTable(
        made.environment, made.rows, made.networks, failures, {add: synthetic.measurement(3.25)}
    )


@pytest.fixture
def new_service(tmp_path, table):
    """Return a function that gives settings and a database with ``table`` in it."""
    opened = []

    def make(**settings):
        database = open_database(tmp_path / f"rows{len(opened)}.db")
        database.migrate()
        opened.append(database)
        put(database, table, source="test")
        chosen = {"cache_dir": tmp_path / "cache", "poll_s": 0.05, "rate_per_s": 0, "token_cache_s": 0.1}
        return Settings(**(chosen | settings)), database

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def new_client(new_service):
    """Return a function that starts the application and returns a client of it, once its lookups are built."""
    with contextlib.ExitStack() as stack:

        def make(*, token=None, wait=True, **settings):
            chosen, database = new_service(**settings)
            app = create_app(chosen, database)
            client = stack.enter_context(TestClient(app, raise_server_exceptions=False))
            if token is not None:
                client.headers["Authorization"] = f"Bearer {create_token(database, 'test', [token])[1]}"
            if wait:
                until(lambda: all(s.fresh for s in app.state.service.catalog.served.values()))
            client.database = database
            return client

        yield make


@pytest.fixture
def client(new_client):
    return new_client()


def until(true, *, seconds=20):
    """Wait until ``true()``."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture
def new_server(new_service):
    """Return a function that serves the application on a port of this machine."""
    running = []

    def make(**settings):
        chosen, database = new_service(port=0, **settings)
        app = create_app(chosen, database)
        server = server_of(app, chosen)
        sock = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        running.append((server, thread))
        until(lambda: server.started)
        until(lambda: all(s.fresh for s in app.state.service.catalog.served.values()))
        server.port = sock.getsockname()[1]
        server.database = database
        server.service = app.state.service
        server.client = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30)
        return server

    yield make
    for server, thread in running:
        server.client.close()
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


class Helpers:
    until = staticmethod(until)


@pytest.fixture(scope="session")
def helpers():
    return Helpers
