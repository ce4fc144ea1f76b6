import subprocess
import sys

import pytest

from pruner.data.decode import workers


def test_processes_that_decode_do_without_torch():
    code = "import sys, pruner.data.decode; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(12), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert workers() == 12
    for processes, expected in ((4, 3), (8, 1), (64, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert workers() == expected
