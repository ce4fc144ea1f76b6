"""The commands on the service's database, on both databases."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from latency_model.cli import app
from latency_model.errors import InputError
from latency_model.service.store import rows
from latency_model.service.store.database import open_database
from latency_model.service.store.errors import StoreError
from latency_model.service.store.tokens import check_token, list_tokens
from latency_model.shipped import shipped_tables
from latency_model.table import LatencyTable

runner = CliRunner()


def call(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


@pytest.fixture
def url(new_url, monkeypatch):
    """Return the URL of an empty database, which the environment names."""
    url = new_url()
    monkeypatch.setenv("GHARIAL_DATABASE_URL", url)
    return url


@pytest.fixture
def opened(url):
    database = open_database(url)
    yield database
    database.close()


def test_import_twice(opened, tmp_path):
    [path] = shipped_tables()
    table = LatencyTable.load(path)
    [report] = json.loads(call("tables", "import", path.stem, "--json").stdout)
    assert report["new"] > 100 and report["revision"] == 1 and report["key"] == table.environment.key
    assert rows.read(opened, report["key"]) == table
    said = call("tables", "import", path).stderr
    assert f"0 new, 0 replaced, {report['new']} identical" in said and "revision 1" in said


def test_import_of_what_is_no_table(url, tmp_path):
    with pytest.raises(InputError, match="no latency table at"):
        call("tables", "import", tmp_path / "missing.parquet")
    with pytest.raises(StoreError, match="not the URL of a database"):
        call("tables", "import", shipped_tables()[0], "--database", "rows.db")


def test_a_token_from_making_to_revoking(opened):
    made = call("tokens", "create", "lab worker", "--scope", "work", "--scope", "read", "--expires", "90d")
    secret = made.stdout.strip()
    info = check_token(opened, secret)
    assert info.name == "lab worker" and info.scopes == ("work", "read")
    assert info.expires_at == info.created_at + 90 * 86400
    assert secret not in made.stderr and info.id in made.stderr
    [listed] = json.loads(call("tokens", "list", "--json").stdout)
    assert listed["id"] == info.id and listed["state"] == "valid" and "secret" not in listed
    assert "lab worker" in call("tokens", "list").stdout
    assert json.loads(call("tokens", "revoke", "lab worker", "--json").stdout)["state"] == "revoked"
    assert check_token(opened, secret) is None
    assert "revoked" in call("tokens", "list").stdout
    again = json.loads(call("tokens", "create", "ci", "--scope", "rows:write", "--json").stdout)
    assert check_token(opened, again["secret"]).id == again["id"] and again["expires_at"] is None


def test_tokens_that_cannot_be_made(opened):
    for arguments, said in [
        (("--scope", "everything"), "unknown scope"),
        (("--scope", "read", "--expires", "soon"), "a period like 12h"),
        (("--scope", "read", "--expires", "0d"), "positive time"),
    ]:
        with pytest.raises(InputError, match=said):
            call("tokens", "create", "x", *arguments)
    with pytest.raises(InputError, match="no token"):
        call("tokens", "revoke", "x")
    assert not list_tokens(opened)


def test_backup_and_restore(opened, new_url, tmp_path):
    call("tables", "import", shipped_tables()[0])
    out = tmp_path / "b.zip"
    counts = json.loads(call("backup", out, "--json").stdout)["tables"]
    other = new_url()
    assert f"restored {sum(counts.values())} rows" in call("restore", out, "--database", other).stderr
    again = open_database(other)
    key = rows.environments(opened)[0].key
    assert rows.read(again, key) == rows.read(opened, key)
    again.close()
    with pytest.raises(StoreError, match="not empty"):
        call("restore", out)


def test_the_database_is_imported_only_when_it_is_used():
    code = "import sys, gharial; assert not {'sqlalchemy', 'alembic', 'pydantic_settings'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "command",
    [
        ("tokens", "create"),
        ("tokens", "list"),
        ("tokens", "revoke"),
        ("backup",),
        ("restore",),
        ("tables", "import"),
    ],
)
def test_help_has_an_example(command):
    assert "Example: gharial " + " ".join(command) in call(*command, "--help").stdout
