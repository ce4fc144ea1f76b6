"""The short form of the benchmark that kills the server and its workers: 5 of its 200 kills, on either database."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import postgres
import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_five_kills_of_server_and_workers_lose_and_double_nothing(tmp_path, database):
    if database == "postgresql" and postgres.binaries() is None:
        pytest.skip("no PostgreSQL server is installed: neither initdb on PATH nor /usr/lib/postgresql")
    target = tmp_path / "kills.csv"
    command = [sys.executable, ROOT / "benchmarks" / "kill_service.py", "--kills", "5", "--pause", "1"]
    done = subprocess.run(
        [*command, "--database", database, "--seed", "1", "--out", target],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 jobs lost, 0 jobs doubled, 0 rows lost" in done.stdout
    with target.open() as stream:
        assert len(list(csv.DictReader(stream))) == 5
