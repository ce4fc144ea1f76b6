import time

import pytest

from profiler.cpu_timer import CpuTimer


def scripted(*runs, **options):
    """A timer whose runs take the (wall, cpu) microseconds given."""
    state = {"wall": 0, "cpu": 0}
    following = iter(runs)

    def run():
        wall, cpu = next(following)
        state["wall"] += int(wall * 1000)
        state["cpu"] += int(cpu * 1000)

    timer = CpuTimer(wall_ns=lambda: state["wall"], cpu_ns=lambda: state["cpu"], **options)
    return timer, run


def test_an_undisturbed_run_gives_its_wall_clock_time():
    timer, run = scripted((100, 99.5), (100, 103), (10, 8.5))
    assert [timer(run) for _ in range(3)] == [100, 100, 10]
    assert (timer.drawn, timer.repeated, timer.estimated, timer.interrupted) == (3, 0, 0, 0.0)


def test_an_interrupted_run_is_repeated_even_if_it_was_the_faster_one():
    timer, run = scripted((100, 50), (300, 299))
    assert timer(run) == 300
    assert (timer.drawn, timer.repeated, timer.estimated) == (1, 1, 0)
    assert timer.interrupted == pytest.approx(0.5)


def test_after_some_tries_processor_time_of_the_one_that_waited_least_is_taken():
    timer, run = scripted((500, 90), (200, 110), (900, 80), (100, 100), tries=3)
    assert timer(run) == 110
    assert (timer.drawn, timer.repeated, timer.estimated) == (1, 2, 1)
    assert timer.interrupted == 1.0
    assert timer(run) == 100


def test_a_thread_that_sleeps_is_interrupted():
    timer = CpuTimer(tries=2)
    assert timer(lambda: time.sleep(0.02)) < 15_000
    assert timer.estimated == 1


def test_without_runs_nothing_was_interrupted():
    assert CpuTimer().interrupted == 0.0
