import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model import ConvShape
from latency_model.errors import MeasurementError
from profiler.gpu.fake import FakeClock, FakeGpu, FakeRuntime
from profiler.gpu.fake_kernels import BOUNDARY, kernels_of
from profiler.gpu.increment import Incrementer, choose_copies
from profiler.sampling import Policy

SHAPE = ConvShape(8, 64, 14, 14, 64, precision="fp16")
POLICY = Policy(max_seconds=math.inf, warm_up_seconds=math.inf, max_samples=400)


@given(st.floats(1e-3, 1e6))
def test_copies_lift_the_increment_above_the_resolution_of_the_clock(increment_us):
    copies = choose_copies(increment_us)
    assert 3 <= copies <= 65
    assert copies == 65 or (copies - 1) * increment_us >= 50 - 1e-9
    assert copies == 3 or (copies - 2) * increment_us < 50


def test_nothing_measured_asks_for_the_most_copies():
    assert choose_copies(0.0) == choose_copies(-1.0) == 65


def incrementer(gpu, *, permitted=True):
    clock = FakeClock(gpu, permitted=permitted)
    return Incrementer(clock=clock, runtime=FakeRuntime(gpu), policy=POLICY)


def read(gpu, shape=SHAPE, *, permitted=True, cold=False):
    return incrementer(gpu, permitted=permitted).read(
        shape, seed=0, cold=cold, output=True, is_new=lambda key: True
    )


def expected_us(*, boundary):
    """The kernels of a copy, and the gap after each, which a network pays as well."""
    times = [us for name, us in kernels_of(SHAPE) if boundary or not BOUNDARY.search(name)]
    return sum(times) + 0.5 * len(kernels_of(SHAPE))


def test_an_increment_is_what_a_copy_adds_without_its_boundary_kernels():
    done = read(FakeGpu(noise=0.0))
    assert done.reading.sampled.median_us == pytest.approx(expected_us(boundary=False))
    assert done.reading.boundary_us == pytest.approx(
        sum(us for name, us in kernels_of(SHAPE) if BOUNDARY.search(name))
    )
    assert [name for name, _ in done.reading.kernels] == [
        name for name, _ in kernels_of(SHAPE) if not BOUNDARY.search(name)
    ]
    assert sum(share for _, share in done.reading.kernels) == pytest.approx(1, abs=1e-3)
    assert done.output.shape == (8, 64, 14, 14)


def test_without_a_profiler_the_boundary_is_part_of_it_and_the_row_can_tell():
    reading = read(FakeGpu(noise=0.0), permitted=False).reading
    assert reading.sampled.median_us == pytest.approx(expected_us(boundary=True))
    assert reading.boundary_us is None
    assert reading.kernels == ()


def test_a_cold_increment_takes_longer():
    done = read(FakeGpu(noise=0.0, cold_factor=1.5), cold=True)
    assert done.cold_us > 1.3 * done.reading.sampled.median_us


def test_fewer_copies_are_built_where_memory_is_short():
    tiny = ConvShape(1, 8, 8, 8, 8, precision="fp16")
    gpu = FakeGpu(noise=0.0)
    free = read(gpu, tiny).reading.sampled.median_us
    short = read(FakeGpu(noise=0.0, memory_bytes=8000.0), tiny).reading.sampled.median_us
    assert short == pytest.approx(free)
    with pytest.raises(MeasurementError, match="memory"):
        read(FakeGpu(memory_bytes=3000.0), tiny)


def test_an_increment_below_the_noise_is_an_error():
    gpu = FakeGpu(noise=0.0)
    backwards = incrementer(gpu)
    object.__setattr__(backwards, "clock", Backwards(gpu))
    with pytest.raises(MeasurementError, match="told from the noise"):
        backwards.read(SHAPE, seed=0, cold=False, output=False, is_new=lambda key: False)


class Backwards(FakeClock):
    """More work, less time."""

    def elapsed_us(self, run, *, runs=1):
        return 1000.0 - super().elapsed_us(run, runs=runs)


class EachItsOwn(FakeRuntime):
    """Every second program runs the slow kernel, as if each copy had a search of its own."""

    def build(self, configs, *, copies=1, graph=False, seed=0):
        self.gpu.flip = float(copies > 1)
        return super().build(configs, copies=copies, graph=graph, seed=seed)


def test_copies_with_different_kernels_are_flagged():
    gpu = FakeGpu(noise=0.0)
    odd = Incrementer(clock=FakeClock(gpu), runtime=EachItsOwn(gpu), policy=POLICY)
    reading = odd.read(SHAPE, seed=0, cold=False, output=False, is_new=lambda key: False).reading
    assert reading.flags == ("mixed-kernels",)
    assert sum("splitk" in name for name, _ in reading.kernels) == 1
    assert len(reading.kernels) == 3


def test_programs_are_closed():
    gpu, closed = FakeGpu(noise=0.0), []

    class Watching(FakeRuntime):
        def build(self, configs, **options):
            program = super().build(configs, **options)
            close, program.close = program.close, lambda: (closed.append(1), close())
            return program

    Incrementer(clock=FakeClock(gpu), runtime=Watching(gpu), policy=POLICY).read(
        SHAPE, seed=0, cold=False, output=False, is_new=lambda key: False
    )
    assert len(closed) == gpu.builds


def test_more_copies_are_built_when_the_first_guess_was_too_few():
    """The launch makes one replay look longer than what a copy adds, so the guess from it is low."""
    tiny, gpu = ConvShape(1, 8, 8, 8, 8, precision="fp16"), FakeGpu(noise=0.0)
    read(gpu, tiny)
    assert gpu.builds == 3
