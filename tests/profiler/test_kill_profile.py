"""The short form of the benchmark that kills a real command: 5 of its 50 kills."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_five_kills_of_the_command_lose_and_double_nothing(tmp_path):
    target = tmp_path / "kills.csv"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "kill_profile.py", "--kills", "5", "--out", target],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 lost, 0 doubled, 0 workers left over" in done.stdout
    with target.open() as stream:
        assert len(list(csv.DictReader(stream))) == 5
