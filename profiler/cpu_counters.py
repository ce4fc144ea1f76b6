"""What Linux counts of disturbances: lost processor time, stolen time, throttling, frequency, load.

A counter that the machine does not have, or does not let us read, is None, never zero.
"""

from __future__ import annotations

import re
import resource
import time
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Counters", "Usage", "frequency_mhz", "runnable"]

_TICKS_PER_S = 100  # USER_HZ, the unit of /proc/stat on every Linux that we know
_ROOT = Path("/")


@dataclass(frozen=True, slots=True)
class Usage:
    """What happened between two moments.

    ``waited`` is the share of the wall-clock time in which the thread did not run, ``involuntary`` how often
    it was taken off its processor. ``stolen`` is the share of the time that the hypervisor gave to others,
    ``throttled_us`` the time for which the control group was held back, ``contended`` the share of the time
    in which some task of the machine waited for a processor.
    """

    wall_us: float
    waited: float
    involuntary: int
    stolen: float | None
    throttled_us: float | None
    contended: float | None


@dataclass(frozen=True, slots=True)
class Counters:
    """A snapshot of one thread's and the machine's counters; ``since`` gives what happened in between."""

    wall_ns: int
    cpu_ns: int
    involuntary: int
    stolen_s: float | None
    busy_s: float | None
    throttled_us: float | None
    contended_us: float | None

    @classmethod
    def read(cls, *, root: Path = _ROOT) -> Counters:
        """Return the counters of the calling thread now; ``root`` is where /proc and /sys are."""
        stolen_s, busy_s = _stat(root)
        return cls(
            wall_ns=time.perf_counter_ns(),
            cpu_ns=time.thread_time_ns(),
            involuntary=resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw,
            stolen_s=stolen_s,
            busy_s=busy_s,
            throttled_us=_throttled_us(root),
            contended_us=_pressure_us(root),
        )

    def since(self, before: Counters) -> Usage:
        """Return what happened from ``before`` to this snapshot of the same thread."""
        wall_us = max((self.wall_ns - before.wall_ns) / 1e3, 1e-3)
        stolen_s, busy_s = _less(self.stolen_s, before.stolen_s), _less(self.busy_s, before.busy_s)
        contended_us = _less(self.contended_us, before.contended_us)
        return Usage(
            wall_us=wall_us,
            waited=min(max(1.0 - (self.cpu_ns - before.cpu_ns) / 1e3 / wall_us, 0.0), 1.0),
            involuntary=self.involuntary - before.involuntary,
            stolen=None if stolen_s is None or busy_s is None else stolen_s / max(busy_s, 1e-9),
            throttled_us=_less(self.throttled_us, before.throttled_us),
            contended=None if contended_us is None else min(contended_us / wall_us, 1.0),
        )


def frequency_mhz(*, root: Path = _ROOT) -> float | None:
    """Return the present frequency of the first processor; None where the machine hides it, as most virtual ones do."""
    text = _text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    return float(text) / 1e3 if text else None


def runnable(*, root: Path = _ROOT) -> int | None:
    """Return how many tasks of the machine want a processor now, the calling one included."""
    match = re.search(r" (\d+)/\d+ ", _text(root / "proc/loadavg"))
    return int(match[1]) if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else max(after - before, 0.0)


def _stat(root: Path) -> tuple[float | None, float | None]:
    """Return the stolen and the whole time of all processors in seconds, from the first line of /proc/stat."""
    words = _text(root / "proc/stat").partition("\n")[0].split()
    if len(words) < 9 or words[0] != "cpu":
        return None, None
    # user nice system idle iowait irq softirq steal; guest time is part of user already.
    ticks = [int(word) for word in words[1:9]]
    return ticks[7] / _TICKS_PER_S, sum(ticks) / _TICKS_PER_S


def _throttled_us(root: Path) -> float | None:
    """Return for how long the control group was held back so far, in version 2 or 1 of control groups."""
    cgroup = _text(root / "proc/self/cgroup")
    own = {name: path for _, name, path in re.findall(r"^(\d+):([^:]*):(.*)$", cgroup, re.MULTILINE)}
    folder = root / "sys/fs/cgroup"
    for base in (folder / own.get("", "/").lstrip("/"), folder):
        if match := re.search(r"^throttled_usec (\d+)$", _text(base / "cpu.stat"), re.MULTILINE):
            return float(match[1])
    path = next((path for name, path in own.items() if "cpu" in name.split(",")), "/")
    for base in (folder / "cpu" / path.lstrip("/"), folder / "cpu,cpuacct" / path.lstrip("/")):
        if match := re.search(r"^throttled_time (\d+)$", _text(base / "cpu.stat"), re.MULTILINE):
            return float(match[1]) / 1e3
    return None


def _pressure_us(root: Path) -> float | None:
    match = re.search(r"^some .*total=(\d+)$", _text(root / "proc/pressure/cpu"), re.MULTILINE)
    return float(match[1]) if match else None
