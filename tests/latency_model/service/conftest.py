"""Databases: every test of the store runs on SQLite and on PostgreSQL, both real."""

import postgres
import pytest

from latency_model.service.store.database import open_database


@pytest.fixture(scope="session")
def postgres_server():
    """Return a function that makes an empty database on a server of this session and returns its URL."""
    with postgres.server() as make:
        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request, tmp_path):
    """Return a function that makes an empty database of either kind and returns its URL."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_server")
    made = []

    def make():
        made.append(None)
        return f"sqlite:///{tmp_path}/rows{len(made)}.db"

    return make


@pytest.fixture
def database(new_url):
    """Return a migrated, empty database."""
    database = open_database(new_url())
    database.migrate()
    yield database
    database.close()
