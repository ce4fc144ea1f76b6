"""``gharial serve`` as a process: the shipped table answers with no other step, and a signal ends it in order."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest
from typer.testing import CliRunner

import gharial
from latency_model.errors import InputError
from latency_model.service.logs import JsonLines
from latency_model.service.serving import import_shipped
from latency_model.service.settings import Settings, settings_from_environment
from latency_model.service.store.database import open_database
from latency_model.service.store.rows import environments
from latency_model.shipped import shipped_tables
from latency_model.table import LatencyTable


@contextlib.contextmanager
def serving(folder, **settings):
    given = {
        "GHARIAL_CACHE_DIR": str(folder / "cache"),
        "GHARIAL_DATABASE_URL": f"sqlite:///{folder / 'rows.db'}",
    }
    environment = os.environ | given | settings
    command = [sys.executable, "-m", "gharial", "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        lines, address = [], None
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"serving on (http://\S+),", line):
                address = found.group(1)
            if "Application startup complete" in line:
                break
        reader = threading.Thread(target=lambda: lines.extend(process.stderr))
        reader.start()
        try:
            assert address, lines
            with httpx.Client(base_url=address, timeout=30) as client:
                yield process, client, lines
        finally:
            process.kill()
            process.wait()
            reader.join()


def test_a_lookup_is_answered_with_no_other_step(tmp_path):
    table = LatencyTable.load(shipped_tables()[0])
    with serving(tmp_path) as (process, client, lines):
        assert client.get("/v1/environments").json()[0]["key"] == table.environment.key
        for shape in list(table)[:10]:
            params = {"environment": table.environment.key, "config": shape.text}
            assert client.get("/v1/lookup", params=params).json()["latency_us"] == table[shape].latency_us
        client.get("/nowhere", headers={"X-Request-ID": "find-me"})
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    said = [json.loads(line) for line in lines if line.startswith("{")]
    (found,) = [entry for entry in said if entry.get("request_id") == "find-me"]
    assert (found["path"], found["status"], found["message"]) == ("/nowhere", 404, "request")
    assert not [entry for entry in said if entry["level"] in ("error", "critical")]


def test_what_was_asked_for_is_answered_before_it_ends(tmp_path):
    table = LatencyTable.load(shipped_tables()[0])
    with serving(tmp_path) as (process, client, _):
        path = f"/v1/environments/{table.environment.key}/rows?format=json"
        with client.stream("GET", path) as answer:
            process.send_signal(signal.SIGTERM)
            assert len(json.loads(answer.read())["rows"]) == len(table) + len(table.ops)
        assert process.wait(30) == 0


def test_shipped_tables_are_imported_once(tmp_path):
    database = open_database(tmp_path / "rows.db")
    database.migrate()
    assert import_shipped(database) == len(shipped_tables())
    revision = environments(database)[0].revision
    assert import_shipped(database) == 0
    assert environments(database)[0].revision == revision
    database.close()


def test_a_bad_setting_is_named(monkeypatch):
    monkeypatch.setenv("GHARIAL_PORT", "many")
    with pytest.raises(InputError, match="GHARIAL_PORT is 'many'"):
        settings_from_environment()
    monkeypatch.setenv("GHARIAL_PORT", "1234")
    assert settings_from_environment().port == 1234
    assert settings_from_environment(port=5).port == 5
    assert settings_from_environment(port=None).port == 1234


def test_passwords_of_databases_are_not_shown():
    shown = Settings(database_url="postgresql://me:secret@host/rows").shown_database
    assert shown == "postgresql://me:***@host/rows"
    assert Settings(database_url="sqlite:////x/y.db").shown_database == "sqlite:////x/y.db"


def test_a_database_that_cannot_be_used_is_one_sentence():
    done = CliRunner().invoke(gharial.app, ["serve", "--database", "mysql://x/y"])
    assert isinstance(done.exception, InputError)
    assert "not supported" in str(done.exception)


def test_a_line_of_the_log_is_one_object(caplog):
    import logging

    record = logging.LogRecord("gharial.x", logging.INFO, "f", 1, "a %s", ("line\nbreak",), None)
    record.request_id = "r1"
    found = json.loads(JsonLines().format(record))
    assert (found["message"], found["request_id"], found["level"]) == ("a line\nbreak", "r1", "info")
    assert "\n" not in JsonLines().format(record)
