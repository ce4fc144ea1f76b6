"""Databases of older and newer versions, and several processes that open one at once."""

import subprocess
import sys

import pytest
from sqlalchemy import inspect, text

from latency_model.service.store import rows, schema
from latency_model.service.store.backup import backup, restore
from latency_model.service.store.database import Database, open_database
from latency_model.service.store.errors import StoreError
from latency_model.service.store.migrate import VERSIONS, newest, revisions

LATER = '''"""Only for tests."""
import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade():
    op.add_column("runs", sa.Column("host", sa.Text, nullable=False, server_default="unknown"))
    op.execute("UPDATE runs SET host = source"){more}
'''


@pytest.fixture
def later(tmp_path):
    """Return a folder of revisions with one more than there are."""
    folder = tmp_path / "100 % later"
    folder.mkdir()
    for path in VERSIONS.glob("v*.py"):
        (folder / path.name).write_text(path.read_text())
    (folder / "v0002_host.py").write_text(LATER.format(more=""))
    return folder


def test_the_last_revision_is_the_schema(database):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        assert context.get_current_revision() == newest() == revisions()[-1]
    database.check()


def test_an_older_database_is_brought_forward_with_its_rows(database, mixed, later):
    rows.put(database, mixed, source="worker 7", run_id="r")
    database.migrate(later)
    database.check(later)
    assert rows.read(database, mixed.environment.key) == mixed
    with database.read() as connection:
        assert connection.execute(text("SELECT host FROM runs")).scalars().all() == ["worker 7"]
    with pytest.raises(StoreError, match=r"schema 0002, this one knows 0001.*pip install -U gharial"):
        database.migrate()
    with pytest.raises(StoreError, match="0002"):
        database.check()


def test_a_migration_that_fails_changes_nothing(database, mixed, later):
    rows.put(database, mixed, source="x")
    (later / "v0002_host.py").write_text(LATER.format(more="\n    raise RuntimeError('no')"))
    with pytest.raises(RuntimeError):
        database.migrate(later)
    database.check()
    assert "host" not in {column["name"] for column in inspect(database.engine).get_columns("runs")}
    assert rows.read(database, mixed.environment.key) == mixed


def test_a_backup_of_an_older_version_is_brought_forward(
    database, new_url, mixed, later, tmp_path, monkeypatch
):
    rows.put(database, mixed, source="worker 7", run_id="r")
    backup(database, tmp_path / "old.zip")
    from latency_model.service.store import backup as code
    from latency_model.service.store import migrate as module

    # The code of a later version, as far as a restore asks for it.
    monkeypatch.setattr(code, "revisions", lambda: revisions(later))
    monkeypatch.setattr(code, "newest", lambda: newest(later))
    monkeypatch.setattr(
        code, "migrate", lambda connection, *, to=None: module.migrate(connection, later, to=to)
    )
    again = open_database(new_url())
    again.migrate(later)
    restore(tmp_path / "old.zip", again)
    again.check(later)
    assert rows.read(again, mixed.environment.key) == mixed
    with again.read() as connection:
        assert connection.execute(text("SELECT host FROM runs")).scalars().all() == ["worker 7"]
    again.close()


def test_another_programs_database_is_left_alone(new_url):
    database = open_database(new_url())
    with database.write() as connection:
        connection.execute(text("CREATE TABLE jobs (id INTEGER)"))
    with pytest.raises(StoreError, match="a table 'jobs' that is not Gharial's"):
        database.migrate()
    assert inspect(database.engine).get_table_names() == ["jobs"]
    database.close()


OPEN = """
import sys
from latency_model.service.store.database import open_database
from latency_model.service.store.tokens import create_token
sys.stdin.read()
for _ in range(3):
    database = open_database(sys.argv[1])
    database.migrate()
    create_token(database, "x", ["read"])
    database.close()
"""


def test_processes_that_migrate_at_once(new_url):
    url = new_url()
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    for process in started:
        process.stdin.close()
    for process in started:
        assert process.wait(120) == 0, process.stderr.read().decode()
        process.stderr.close()
    database = open_database(url)
    database.check()
    with database.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM tokens")).scalar() == 15
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar() == 1
    database.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("rows.db", "not the URL of a database"),
        ("mysql://host/name", "a database of mysql is not supported"),
        ("sqlite://", "keeps its rows in a file"),
        ("sqlite:///:memory:", "keeps its rows in a file"),
        ("sqlite:////proc/nothing/rows.db", "cannot make the folder"),
    ],
)
def test_what_is_no_database(url, said):
    with pytest.raises(StoreError, match=said):
        open_database(url)


def test_databases_that_do_not_open(tmp_path):
    (tmp_path / "text.db").write_text("hello, this is a text and no database" * 100)
    database = open_database(tmp_path / "text.db")
    with pytest.raises(StoreError, match=r"cannot open the database .*text\.db: file is not a database"):
        database.migrate()
    database.close()
    database = open_database("postgresql://me:secret@127.0.0.1:9/none")
    with pytest.raises(StoreError, match="cannot open the database") as caught:
        database.check()
    assert "secret" not in str(caught.value) and "secret" not in database.name
    database.close()
    with pytest.raises(StoreError, match="has the schema of none"):
        open_database(tmp_path / "new.db").check()


def test_sqlite_is_set_up_to_lose_nothing(tmp_path):
    database = open_database(tmp_path / "a folder" / "rows #1.db")
    assert isinstance(database, Database)
    database.migrate()
    with database.write() as connection:
        settings = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 30_000}
    database.close()
