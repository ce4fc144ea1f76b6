"""The queue against every order of deaths and failures: nothing is lost, nothing is tried for ever."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from profiler.work import Work


@given(st.data(), st.integers(0, 12), st.integers(1, 5))
def test_each_configuration_is_measured_or_given_up_once_whatever_happens(data, count, at_once):
    work, over, tries = Work(range(count)), [], Counter()
    while work:
        task = work.take(at_once, workers=data.draw(st.integers(1, 3)))
        assert 1 <= len(task) <= at_once
        tries.update(task)
        assert max(tries.values()) <= 6
        pending = list(task)
        for config in task:
            what = data.draw(st.sampled_from(["row", "error", "crash", "lost"]))
            if what in ("crash", "lost"):
                over += work.died(task, pending, lost=what == "lost")
                break
            pending.remove(config)
            if what == "row" or work.failed(config):
                over.append(config)
    assert sorted(over) == list(range(count))


def crash(work, *, lost=False, at_once=3):
    task = work.take(at_once)
    return task, work.died(task, task, lost=lost)


def test_a_crash_is_blamed_on_the_second_time_alone():
    work = Work([1, 2, 3])
    assert crash(work) == ((1, 2, 3), [])  # of a pack nobody knows which it was
    assert crash(work) == ((1,), [])
    assert work.take(3) == (2,)
    assert work.take(3) == (3,)
    assert crash(work) == ((1,), [1])
    assert not work


def test_a_loss_is_blamed_on_nobody_the_first_time():
    work = Work([1, 2])
    assert crash(work, lost=True) == ((1, 2), [])
    assert work.take(3) == (1, 2)
    work = Work([1])
    assert [crash(work, lost=True)[1] for _ in range(3)] == [[], [], [1]]


def test_an_error_is_tried_again_alone_and_then_given_up():
    work = Work([1, 2, 3])
    work.take(1)
    assert not work.failed(1)
    assert work.take(3) == (1,)
    assert work.failed(1)
    assert work.take(3) == (2, 3)


def test_the_last_configurations_are_shared():
    work = Work(range(10))
    assert [len(work.take(8, workers=2)) for _ in range(4)] == [5, 3, 1, 1]
