"""A backup of either database restores either, equal, and never half."""

import dataclasses
import json
import time
import zipfile

import pytest
from sqlalchemy import insert, select, text

from latency_model.errors import InputError
from latency_model.service.store import rows, schema
from latency_model.service.store.backup import backup, restore
from latency_model.service.store.database import open_database
from latency_model.service.store.errors import StoreError
from latency_model.service.store.tokens import check_token, create_token


def contents(database):
    with database.read() as connection:
        return {
            table.name: [
                tuple(bytes(v) if isinstance(v, memoryview) else v for v in row)
                for row in connection.execute(select(table).order_by(*table.primary_key.columns))
            ]
            for table in schema.metadata.sorted_tables
        }


@pytest.fixture
def filled(database, mixed, synthetic):
    """Return a database with something in every table, and the secret of its token."""
    rows.put(database, mixed, source="test", run_id="r1")
    rows.put(database, dataclasses.replace(mixed, environment=synthetic.other_environment), source="test")
    _, secret = create_token(database, "ci", ["read"], expires_in_s=1000)
    with database.write() as connection:
        data = bytes(range(256)) * 10
        connection.execute(insert(schema.blobs).values(digest="d", bytes=data, created_at=1.25))
        job = {
            "id": "j",
            "position": 7,
            "request_digest": "x",
            "kind": "model",
            "wants": "{}",
            "request": "ü",
        }
        job |= {"blob": "d", "state": "queued", "created_at": 0.1, "changed_at": time.time()}
        connection.execute(insert(schema.jobs).values(**job))
        connection.execute(insert(schema.job_items).values(job_id="j", number=0, config="c", state="waiting"))
    return database, secret


@pytest.fixture
def other(request, tmp_path, postgres_server):
    """Return a function that opens an empty database of the kind that is named."""
    opened = []

    def make(kind):
        url = f"sqlite:///{tmp_path}/other{len(opened)}.db" if kind == "sqlite" else postgres_server()
        opened.append(open_database(url))
        return opened[-1]

    yield make
    for database in opened:
        database.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_archive_restores_either_database(filled, other, kind, tmp_path, mixed):
    database, secret = filled
    seen = []
    counts = backup(database, tmp_path / "b.zip", progress=lambda *step: seen.append(step))
    assert seen[-1] == (sum(counts.values()),) * 2 and counts["rows"] == 20 and counts["job_items"] == 1
    again = other(kind)
    assert restore(tmp_path / "b.zip", again) == counts
    assert contents(again) == contents(database)
    assert rows.read(again, mixed.environment.key) == mixed
    assert check_token(again, secret)
    # Numbers go on: a new environment does not get the number of an old one.
    third = dataclasses.replace(mixed, environment=dataclasses.replace(mixed.environment, device="third"))
    rows.put(again, third, source="test")
    assert len({info.id for info in rows.environments(again)}) == 3


def test_secrets_are_in_no_backup(filled, tmp_path):
    database, secret = filled
    backup(database, tmp_path / "b.zip")
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        assert all(secret[4:].encode() not in archive.read(name) for name in archive.namelist())


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_copy_of_sqlite_is_a_database_and_a_backup(filled, other, kind, tmp_path):
    database, _ = filled
    if not database.is_sqlite:
        with pytest.raises(InputError, match=r"ends in \.zip"):
            backup(database, tmp_path / "copy.db")
        return
    counts = backup(database, tmp_path / "copy.db")
    copy = open_database(tmp_path / "copy.db")
    assert contents(copy) == contents(database)
    copy.close()
    again = other(kind)
    assert restore(tmp_path / "copy.db", again) == counts
    assert contents(again) == contents(database)


def test_what_is_restored_into_must_be_empty(filled, tmp_path):
    database, _ = filled
    backup(database, tmp_path / "b.zip")
    before = contents(database)
    with pytest.raises(StoreError, match="not empty, it has blobs, environments"):
        restore(tmp_path / "b.zip", database)
    assert contents(database) == before


def broken(path, how):
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    how(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def changed(name, value):
    def change(files):
        files["backup.json"] = json.dumps({**json.loads(files["backup.json"]), name: value}).encode()

    return change


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            lambda files: files.update({"rows.parquet": files["rows.parquet"] + b"x"}),
            "is damaged: rows.parquet",
        ),
        (lambda files: files.pop("jobs.parquet"), "not a backup"),
        (lambda files: files.pop("backup.json"), "not a backup"),
        (changed("format_version", 2), "later version"),
        (changed("revision", "9999"), "later version"),
    ],
)
def test_a_damaged_or_later_archive_changes_nothing(filled, other, tmp_path, how, said):
    database, _ = filled
    backup(database, tmp_path / "b.zip")
    broken(tmp_path / "b.zip", how)
    again = other("sqlite")
    with pytest.raises(StoreError, match=said):
        restore(tmp_path / "b.zip", again)
    again.migrate()
    assert not any(contents(again).values())


def test_what_fails_inside_restores_nothing(filled, other, tmp_path):
    database, _ = filled
    backup(database, tmp_path / "b.zip")
    again = other("postgresql" if not database.is_sqlite else "sqlite")
    again.migrate()

    def stop(done, total):
        if done > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "b.zip", again, progress=stop)
    assert not any(contents(again).values())
    restore(tmp_path / "b.zip", again)
    assert contents(again) == contents(database)


def test_files_that_are_no_backups(database, tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    with pytest.raises(StoreError, match="not a backup"):
        restore(tmp_path / "text.zip", database)
    with pytest.raises(StoreError, match="no backup at"):
        restore(tmp_path / "missing.zip", database)
    (tmp_path / "half.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(StoreError, match="damaged"):
        restore(tmp_path / "half.db", database)
    with pytest.raises(InputError, match="its ending"):
        backup(database, tmp_path / "rows.txt")
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="9999"):
        backup(database, tmp_path / "b.zip")
