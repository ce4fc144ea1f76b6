import os
import subprocess
import sys

import pytest

from latency_model.errors import InputError
from latency_model.files import read_json, write_atomic, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(target):
        target.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left") as error:
        write_atomic(path, fail)
    assert str(path) in str(error.value)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_killed_between_writing_and_renaming(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    code = (
        "import os, sys, pathlib\n"
        "from latency_model.files import write_atomic\n"
        "def write(t):\n"
        "    t.write_text('new'); os.kill(os.getpid(), 9)\n"
        "write_atomic(pathlib.Path(sys.argv[1]), write)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], check=False, env=os.environ | {"PYTHONPATH": "."}
    )
    assert done.returncode == -9
    assert path.read_text() == "old"


def test_a_new_file_gets_ordinary_permissions(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "x")
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert path.stat().st_mode == plain.stat().st_mode


def test_json_round_trip_and_refusal_of_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"µ": [1, 2.5, None]})
    assert read_json(path) == {"µ": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    path.write_text("{")
    with pytest.raises(InputError, match=r"a\.json"):
        read_json(path)
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "none.json")
