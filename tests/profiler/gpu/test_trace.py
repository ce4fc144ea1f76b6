import math
import re

import numpy as np
import pytest

from latency_model import ConvShape
from profiler.gpu.cold import cold_passes, cold_policy, hot_passes
from profiler.gpu.fake import FakeClock, FakeGpu, FakeRuntime
from profiler.gpu.fake_kernels import BOUNDARY, MARKER, kernels_of
from profiler.gpu.program import Kernel
from profiler.gpu.reading import Reading, TraceError
from profiler.gpu.trace import Tracer, split_step
from profiler.sampling import Policy

SHAPES = [ConvShape(8, 64, 14, 14, 32 * k, precision="fp16") for k in (1, 2, 3)]
POLICY = Policy(max_seconds=math.inf, warm_up_seconds=math.inf, max_samples=400)


def names(text):
    return [Kernel(name, 0.0, 1.0) for name in text]


def parts(text, configs):
    found = split_step(names(text), configs, marker=re.compile("m"))
    return ["".join(kernel.name for kernel in part) for part in found]


def test_markers_split_a_step_and_are_dropped():
    assert parts("mabmcmde", 3) == ["ab", "c", "de"]
    assert parts("mambm", 3) == ["a", "b", ""]
    assert parts("mab", 1) == ["ab"]
    assert parts("ab", 1) == ["ab"]


@pytest.mark.parametrize("text", ["amab", "mab", "mambmc", "ab", ""])
def test_a_step_with_other_markers_is_malformed(text):
    with pytest.raises(TraceError):
        parts(text, 2)


def own(shape):
    return [(name, us) for name, us in kernels_of(shape) if not BOUNDARY.search(name)]


class Scripted:
    """A clock whose traces come from a list of rounds; each round is [run][step] of kernels."""

    def __init__(self, gpu, spoil):
        self.real, self.spoil, self.rounds, self.asked = FakeClock(gpu), spoil, 0, []

    def trace(self, steps, *, runs):
        self.asked.append(len(steps))
        self.rounds += 1
        return self.spoil(self.real.trace(steps, runs=runs), self.rounds)

    def __getattr__(self, name):
        return getattr(self.real, name)


def read(
    *, packed=True, noise=0.01, spoil=lambda traced, rounds: traced, policy=POLICY, cold=False, **options
):
    gpu = FakeGpu(noise=noise, **options)
    clock = Scripted(gpu, spoil)
    program = FakeRuntime(gpu, packed=packed).build(SHAPES)
    tracer = Tracer(clock=clock, marker=MARKER, boundary=BOUNDARY, policy=policy)
    tracer.warm_up(program)
    return tracer.read(program.steps, cold_passes(clock) if cold else hot_passes), clock


@pytest.mark.parametrize("packed", [True, False])
def test_a_reading_is_the_sum_of_the_kernels_without_marker_and_boundary(packed):
    readings, _ = read(packed=packed, noise=0.0)
    for shape, reading in zip(SHAPES, readings, strict=True):
        total = sum(us for _, us in own(shape))
        assert reading.sampled.median_us == pytest.approx(total)
        assert reading.key == " + ".join(name for name, _ in own(shape))
        assert [share for _, share in reading.kernels] == pytest.approx(
            [us / total for _, us in own(shape)], abs=1e-4
        )
        ends = sum(us for name, us in kernels_of(shape) if BOUNDARY.search(name))
        assert reading.boundary_us == pytest.approx(ends)


def test_samples_go_on_until_every_median_is_known_as_asked():
    coarse, _ = read(policy=Policy(relative=0.05, max_seconds=math.inf, warm_up_seconds=math.inf))
    fine, _ = read(
        policy=Policy(relative=0.004, absolute_us=0.0, max_seconds=math.inf, warm_up_seconds=math.inf)
    )
    assert all(reading.sampled.stable for reading in fine)
    assert all(len(reading.sampled.values_us) == 40 for reading in coarse)
    assert len(fine[0].sampled.values_us) > 40
    assert all(r.sampled.width_us <= 0.004 * r.sampled.median_us for r in fine)


def test_sampling_stops_at_the_cap_and_says_so():
    readings, clock = read(
        noise=0.5, policy=Policy(max_samples=60, max_seconds=math.inf, warm_up_seconds=0.1)
    )
    assert clock.rounds == 3
    assert not any(reading.sampled.stable for reading in readings)


def test_steps_that_are_settled_are_not_traced_again():
    policy = Policy(
        relative=0.02, absolute_us=0.0, max_seconds=math.inf, warm_up_seconds=0.1, max_samples=200
    )

    def noisy_last(traced, rounds):
        factor = np.random.default_rng(rounds)
        for run in traced:
            scale = float(np.exp(0.5 * factor.standard_normal()))
            run[-1] = [Kernel(k.name, k.start_us, k.duration_us * scale) for k in run[-1]]
        return traced

    readings, clock = read(packed=False, spoil=noisy_last, policy=policy)
    assert [reading.sampled.stable for reading in readings] == [True, True, False]
    assert clock.asked[0] == 6  # each step twice: the second run finds its data in the cache
    assert set(clock.asked[4:]) == {2}


def drop(traced, run, step, kernel):
    del traced[run][step][kernel]
    return traced


def test_a_lost_kernel_costs_a_round():
    """Packed: kernel 7 belongs to the second configuration, so only that one is measured again."""
    readings, clock = read(spoil=lambda traced, rounds: drop(traced, 3, 0, 7) if rounds == 1 else traced)
    assert all(isinstance(reading, Reading) for reading in readings)
    assert clock.rounds >= 3
    assert readings[1].key == " + ".join(name for name, _ in own(SHAPES[1]))


def test_a_lost_marker_costs_the_round_of_all():
    readings, clock = read(spoil=lambda traced, rounds: drop(traced, 3, 0, 0) if rounds == 1 else traced)
    assert [len(reading.sampled.values_us) for reading in readings] == [40, 40, 40]
    assert clock.rounds == 3


def test_what_stays_malformed_is_an_error_of_that_configuration_alone():
    readings, _ = read(spoil=lambda traced, rounds: drop(traced, 3, 0, 7))
    assert [type(reading) for reading in readings] == [Reading, TraceError, Reading]
    assert "1 of 20 traced runs" in str(readings[1])
    assert str(SHAPES[1]) in str(readings[1])


def test_other_kernels_in_a_later_round_are_noticed():
    def rename(traced, rounds):
        if rounds > 1:
            for run in traced:
                run[0][3] = Kernel("other", 0.0, 1.0)
        return traced

    readings, _ = read(noise=0.3, spoil=rename)
    assert isinstance(readings[0], TraceError)
    assert isinstance(readings[1], Reading)


def test_a_trace_without_steps_is_an_error():
    readings, clock = read(spoil=lambda traced, rounds: traced[1:])
    assert all(isinstance(reading, TraceError) for reading in readings)
    assert clock.rounds == 3


def test_a_configuration_without_kernels_is_not_free():
    def only_boundary(traced, rounds):
        return [[[k for k in step if BOUNDARY.search(k.name)] for step in run] for run in traced]

    readings, _ = read(packed=False, spoil=only_boundary)
    assert all("no kernel of its own" in str(reading) for reading in readings)


@pytest.mark.parametrize("packed", [True, False])
def test_cold_runs_follow_an_eviction_whose_kernels_do_not_count(packed):
    hot, _ = read(packed=packed, noise=0.0)
    cold, _ = read(packed=packed, noise=0.0, cold=True, cold_factor=1.4)
    for first, second in zip(hot, cold, strict=True):
        assert second.sampled.median_us == pytest.approx(1.4 * first.sampled.median_us)
        assert second.key == first.key


def test_the_cold_policy_asks_for_less():
    policy = cold_policy(POLICY)
    assert policy.relative > POLICY.relative
    assert policy.max_samples < POLICY.max_samples
