import dataclasses
import time

import pytest

from profiler.cpu_conditions import Conditions
from profiler.cpu_counters import Counters, frequency_mhz, runnable

CALM = Counters(0, 0, 0, 0.0, 0.0, 0.0, 0.0)


def around(**after):
    """Conditions of 1 s in which what is given happened."""
    full = {"wall_ns": 10**9, "cpu_ns": 10**9, "stolen_s": 0.0, "busy_s": 2.0, **after}
    snapshots = iter([CALM, dataclasses.replace(CALM, **full)])
    with Conditions(read=lambda: next(snapshots)) as conditions:
        assert conditions.flags == ()
    return conditions


def test_conditions_turn_counters_into_flags():
    assert around().flags == ()
    assert around(cpu_ns=960_000_000).flags == ()
    assert around(cpu_ns=900_000_000).flags == ("preempted",)
    assert around(stolen_s=0.1).flags == ("preempted",)
    assert around(throttled_us=1.0).flags == ("throttled",)
    assert around(cpu_ns=0, throttled_us=1.0).flags == ("preempted", "throttled")
    assert around(stolen_s=None, busy_s=None, throttled_us=None).flags == ()
    usage = around(cpu_ns=750_000_000, involuntary=7, contended_us=5e5, stolen_s=None).usage
    assert usage.waited == pytest.approx(0.25)
    assert (usage.involuntary, usage.stolen, usage.contended) == (7, None, pytest.approx(0.5))


def test_real_counters_see_a_thread_that_sleeps():
    with Conditions() as conditions:
        time.sleep(0.05)
    assert "preempted" in conditions.flags
    assert conditions.usage.waited > 0.5


STAT = "cpu  100 0 100 800 0 0 0 {steal} 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"


def machine(root, *, steal=0, cpu_stat="", folder="", cgroup="0::/job\n", pressure=0):
    files = {
        "proc/stat": STAT.format(steal=steal),
        "proc/self/cgroup": cgroup,
        f"sys/fs/cgroup/{folder}cpu.stat": cpu_stat,
        "proc/pressure/cpu": f"some avg10=1.00 avg60=1.00 avg300=1.00 total={pressure}\nfull avg10=0 total=9\n",
        "proc/loadavg": "0.50 0.40 0.30 3/109 20918\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2595000\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Counters.read(root=root)


def test_counters_are_read_from_linux(tmp_path):
    before = machine(tmp_path, cpu_stat="nr_throttled 1\nthrottled_usec 500\n", folder="job/")
    after = machine(tmp_path, steal=100, cpu_stat="throttled_usec 900\n", folder="job/", pressure=10**12)
    usage = after.since(before)
    assert usage.stolen == pytest.approx(1.0)  # nothing but stolen time passed
    assert usage.throttled_us == 400
    assert usage.contended == 1.0
    assert before.busy_s == pytest.approx(10.0)
    assert runnable(root=tmp_path) == 3
    assert frequency_mhz(root=tmp_path) == 2595.0


@pytest.mark.parametrize(
    ("cgroup", "folder"),
    [("4:cpu,cpuacct:/job\n0::/\n", "cpu,cpuacct/job/"), ("1:cpu:/\n0::/\n", "cpu/")],
)
def test_throttling_is_found_in_the_first_version_of_control_groups(tmp_path, cgroup, folder):
    counters = machine(tmp_path, cpu_stat="throttled_time 7000\n", folder=folder, cgroup=cgroup)
    assert counters.throttled_us == 7.0


def test_what_a_machine_does_not_say_is_none(tmp_path):
    counters = Counters.read(root=tmp_path)
    assert (counters.stolen_s, counters.throttled_us, counters.contended_us) == (None, None, None)
    usage = Counters.read(root=tmp_path).since(counters)
    assert (usage.stolen, usage.throttled_us, usage.contended) == (None, None, None)
    assert usage.wall_us > 0
    assert runnable(root=tmp_path) is None
    assert frequency_mhz(root=tmp_path) is None
