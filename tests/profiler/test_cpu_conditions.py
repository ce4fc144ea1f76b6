import dataclasses
import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import MeasurementError
from profiler.cpu_conditions import (
    FLAGS,
    Canary,
    CanaryReading,
    Conditions,
    measure_calmly,
)
from profiler.cpu_counters import Counters, frequency_mhz, runnable

CALM = Counters(0, 0, 0, 0.0, 0.0, 0.0, 0.0)


def scripted(compute, memory=None):
    """A canary whose work takes the times given, and then the last of them for ever."""
    compute, memory = list(compute), list(memory or [100.0])

    def give(values):
        following = itertools.chain(values, itertools.repeat(values[-1]))
        return lambda: next(following)

    return Canary(repeats=1, run_us=(give(compute), give(memory)))


def quiet():
    return Conditions(read=iter([CALM, dataclasses.replace(CALM, wall_ns=1000, cpu_ns=1000)]).__next__)


def test_the_work_is_real_and_takes_time():
    canary = Canary()
    canary.warm_up(3)
    reading = canary.read()
    assert reading.compute_us > 10
    assert reading.memory_us > 10
    assert canary.baseline.compute_us <= reading.compute_us * 2


def test_a_reading_is_the_fastest_of_its_repeats():
    times = iter([30.0, 10.0, 20.0, 7.0, 9.0, 8.0])
    canary = Canary(repeats=3, run_us=(lambda: next(times), lambda: next(times)))
    assert canary.read() == CanaryReading(10.0, 7.0)


@given(st.lists(st.floats(100, 200), min_size=1, max_size=50))
def test_the_baseline_is_a_low_quantile_of_what_was_read(times):
    canary = scripted(times)
    for _ in times:
        canary.read()
    below = sum(value <= canary.baseline.compute_us * (1 + 1e-12) for value in times)
    assert below >= 1
    assert min(times) <= canary.baseline.compute_us * (1 + 1e-12)
    assert sum(value < canary.baseline.compute_us * (1 - 1e-12) for value in times) <= 0.1 * len(times) + 1


def test_without_a_reading_the_baseline_is_the_first_one():
    assert scripted([50.0], [70.0]).baseline == CanaryReading(50.0, 70.0)


def test_each_of_the_two_pieces_can_tell():
    canary = scripted([100.0])
    canary.warm_up()
    assert not canary.disturbed(CanaryReading(109.0, 109.0))
    assert canary.disturbed(CanaryReading(111.0, 100.0))
    assert canary.disturbed(CanaryReading(100.0, 111.0))
    assert not canary.disturbed(CanaryReading(111.0, 100.0), tolerance=0.2)
    assert canary.excess(CanaryReading(150.0, 120.0)) == pytest.approx(0.5)
    assert canary.excess(CanaryReading(50.0, 50.0)) == 0.0


def test_a_calm_row_is_measured_once_without_flags():
    canary = scripted([100.0])
    canary.warm_up()
    calm = measure_calmly(lambda: "row", canary, conditions=quiet)
    assert (calm.value, calm.flags, calm.tries, calm.excess) == ("row", (), 1, 0.0)


def test_a_disturbed_row_is_tried_again_and_the_calm_try_is_kept():
    # warm-up, before, after (disturbed), then calm
    canary = scripted([100.0] * 10 + [100.0, 150.0, 100.0, 100.0])
    canary.warm_up()
    rows = iter(["slow", "calm", "never"])
    waits = []
    calm = measure_calmly(lambda: next(rows), canary, conditions=quiet, pause_s=0.5, sleep=waits.append)
    assert (calm.value, calm.flags, calm.tries) == ("calm", (), 2)
    assert calm.excesses == pytest.approx((0.5, 0.0))
    assert waits == [0.5]


def test_the_disturbance_before_counts_as_much_as_the_one_after():
    canary = scripted([100.0] * 10 + [150.0, 100.0, 100.0])
    canary.warm_up()
    rows = iter(["slow", "calm"])
    assert measure_calmly(lambda: next(rows), canary, conditions=quiet).value == "calm"


def test_what_stays_disturbed_is_the_calmest_try_and_flagged():
    canary = scripted([100.0] * 40 + [160.0, 160.0, 130.0, 130.0, 140.0])
    canary.warm_up(40)
    rows = iter(["worst", "better", "best", "never"])
    # Tries see (160, 160), (160, 130), (130, 130).
    calm = measure_calmly(lambda: next(rows), canary, conditions=quiet)
    assert (calm.value, calm.flags, calm.tries) == ("best", ("disturbed",), 3)
    assert calm.excess == pytest.approx(0.3, abs=0.01)
    assert set(calm.flags) <= set(FLAGS)


def test_with_a_rank_the_smallest_is_kept_and_flagged_by_its_own_canaries():
    canary = scripted([100.0] * 40 + [160.0, 160.0, 130.0, 130.0, 140.0])
    canary.warm_up(40)
    rows = iter([2.0, 1.0, 3.0])
    calm = measure_calmly(lambda: next(rows), canary, conditions=quiet, rank=lambda row: row)
    assert (calm.value, calm.flags, calm.tries) == (1.0, ("disturbed",), 3)
    assert calm.excess == calm.excesses[1] == pytest.approx(0.6, abs=0.01)
    assert calm.excesses[2] < calm.excess


def test_tries_are_compared_by_the_baseline_at_the_end():
    # The first canaries make the baseline too high; the calm comes later.
    canary = scripted([150.0, 150.0, 150.0] + [100.0] * 50)
    canary.read()
    assert not measure_calmly(lambda: 0, canary, conditions=quiet).flags
    canary.warm_up(40)
    assert canary.disturbed(CanaryReading(150.0, 100.0))


def test_an_error_in_a_disturbed_moment_costs_a_try_and_in_a_calm_one_is_raised():
    def failing(times):
        left = iter(range(times))

        def measure():
            if next(left, None) is not None:
                raise MeasurementError("negative")
            return "row"

        return measure

    canary = scripted([100.0] * 20 + [150.0, 150.0, 100.0, 100.0])
    canary.warm_up(20)
    calm = measure_calmly(failing(1), canary, conditions=quiet, pause_s=0.1, sleep=lambda _: None)
    assert (calm.value, calm.tries, calm.flags) == ("row", 2, ())
    with pytest.raises(MeasurementError, match="negative"):
        measure_calmly(failing(1), canary, conditions=quiet)
    noisy = scripted([100.0] * 90 + [150.0])
    noisy.warm_up(90)
    with pytest.raises(MeasurementError, match="negative"):
        measure_calmly(failing(3), noisy, conditions=quiet)


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


def test_flags_of_the_kept_try_go_with_it():
    canary = scripted([100.0])
    calm = measure_calmly(lambda: 1, canary, conditions=lambda: Conditions(read=iter(pair()).__next__))
    assert calm.flags == ("preempted",)
    assert calm.usage.waited == pytest.approx(0.5)


def pair():
    return CALM, dataclasses.replace(CALM, wall_ns=1000, cpu_ns=500)


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
