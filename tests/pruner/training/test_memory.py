from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pruner.training import memory
from pruner.training.memory import kept_memory

# glibc's thresholds move by themselves: fixed, so that what is not kept is surely handed back.
SCRIPT = """
import ctypes, resource, sys
import torch
from contextlib import nullcontext
from pruner.training.memory import kept_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for parameter in (-1, -3):
    ctypes.CDLL(None).mallopt(parameter, 1 << 17)
with kept_memory() if sys.argv[1] == "kept" else nullcontext():
    for step in range(12):
        if step == 2:
            start = faults()
        held = [torch.ones(1 << 21) for _ in range(12)]
        held.clear()
    print(faults() - start)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_memory_that_was_freed_is_not_faulted_in_again() -> None:
    plain, kept = faults("plain"), faults("kept")
    assert plain * resource.getpagesize() >= 10 * 12 * (8 << 20), (
        "what is to be compared with keeps memory too"
    )
    assert kept < 0.1 * plain


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_memory_is_handed_back_on_leaving() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    before = resident()
    with kept_memory():
        held = [torch.ones(1 << 21) for _ in range(25)]
        held.clear()
        inside = resident()
    assert inside - before > 150 << 20
    assert resident() - before < 50 << 20


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with kept_memory():
        pass
