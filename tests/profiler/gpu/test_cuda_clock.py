from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile, record_function

from latency_model.errors import InputError, MeasurementError
from profiler.gpu.cuda_clock import _RANGE, CudaClock, Traced, _bus_id, _device_errors, attribute, read_events
from profiler.gpu.reading import TraceError

# For each step: for each call of CUDA in it, whether it is recorded and how many kernels it launches.
STEPS = st.lists(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=5), min_size=1, max_size=6)


def traced(steps, mark=True):
    """A trace of ``steps`` as the device would run them, long after they were launched."""
    ranges, calls, work, expected = [], [], [], []
    host, device, correlation = 1000, 10_000, 5
    for step in steps:
        begin, names = host, []
        if mark:
            correlation += 1
            calls.append((host + 1, correlation))
        for recorded, kernels in step:
            host, correlation = host + 10, correlation + 1
            if recorded:
                calls.append((host, correlation))
            for _ in range(kernels):
                work.append((device, 7, correlation, f"kernel {len(work)}"))
                names.append(work[-1][3])
                device += 9
        host += 20
        ranges.append((begin, host - 10))
        expected.append(names)
    return Traced(tuple(ranges), tuple(calls[::-1]), tuple(work[::-1]), mark), expected


@given(STEPS)
def test_every_kernel_goes_to_the_step_that_launched_it(steps):
    trace, expected = traced(steps)
    found = attribute(trace)
    assert [[kernel.name for kernel in step] for step in found] == expected
    assert all(kernel.duration_us == 0.007 for step in found for kernel in step)


def test_work_that_may_belong_to_either_of_two_steps_is_not_guessed():
    trace, _ = traced([[(True, 1)], [(False, 1), (True, 1)]], mark=False)
    with pytest.raises(TraceError, match="does not say"):
        attribute(trace)


def test_work_of_another_thread_is_noticed():
    trace, _ = traced([[(True, 1)]])
    stranger = Traced(trace.ranges, (*trace.calls, (5000, 99)), (*trace.work, (1, 1, 99, "stranger")))
    with pytest.raises(TraceError, match="stranger"):
        attribute(stranger)


def event(name, device, start, duration, correlation, *, index=0, note=False):
    return SimpleNamespace(
        name=lambda: name,
        device_type=lambda: f"DeviceType.{device}",
        device_index=lambda: index,
        start_ns=lambda: start,
        duration_ns=lambda: duration,
        correlation_id=lambda: correlation,
        is_user_annotation=lambda: note,
    )


def test_events_of_the_profiler_are_sorted_into_ranges_calls_and_work():
    events = [
        event(_RANGE, "CPU", 100, 50, 1, note=True),
        event(_RANGE, "CUDA", 300, 90, 1, note=True),
        event("aten::cudnn_convolution", "CPU", 105, 30, 2),
        event("cudaEventRecord", "CPU", 101, 1, 7),
        event("cuLaunchKernelEx", "CPU", 110, 3, 8),
        event("cudaMemsetAsync", "CPU", 115, 3, 9),
        event("cudnn::fprop", "CUDA", 300, 40, 8),
        event("Memset (Device)", "CUDA", 350, 2, 9),
        event("elsewhere", "CUDA", 350, 2, 9, index=1),
    ]
    found = read_events(events, index=0)
    assert found.ranges == ((100, 150),)
    assert found.marked
    assert not read_events([e for e in events if e.name() != "cudaEventRecord"], index=0).marked
    assert sorted(found.calls) == [(101, 7), (110, 8), (115, 9)]
    assert found.work == ((300, 40, 8, "cudnn::fprop"), (350, 2, 9, "Memset (Device)"))
    assert [kernel.name for kernel in attribute(found)[0]] == ["cudnn::fprop", "Memset (Device)"]


def test_the_ranges_are_found_in_a_real_trace():
    with profile(activities=[ProfilerActivity.CPU]) as done:
        for _ in range(3):
            with record_function(_RANGE):
                torch.ones(4).add_(1)
    found = read_events(done.profiler.kineto_results.events(), index=0)
    assert len(found.ranges) == 3
    assert all(start < end for start, end in found.ranges)
    assert all(first[1] <= second[0] for first, second in zip(found.ranges, found.ranges[1:], strict=False))
    assert found.calls == found.work == ()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_device_the_error_says_what_to_check():
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES"):
        CudaClock()


def test_errors_of_the_device_are_ours():
    for error in (
        RuntimeError("CUDA error: an illegal memory access\nmore"),
        torch.OutOfMemoryError("no memory"),
    ):
        with pytest.raises(MeasurementError) as caught, _device_errors():
            raise error
        assert "more" not in str(caught.value)
    with pytest.raises(TraceError), _device_errors():
        raise TraceError("kept as it is")


def test_the_bus_id_is_the_drivers():
    assert _bus_id(SimpleNamespace(pci_domain_id=1, pci_bus_id=0x1B, pci_device_id=2)) == "00000001:1b:02.0"
    assert _bus_id(SimpleNamespace()) == ""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_device_is_timed_and_traced():
    clock = CudaClock()
    with torch.cuda.stream(clock.stream):
        x = torch.randn(1024, 1024, device="cuda")
        y = torch.empty_like(x)
    steps = [lambda: torch.mm(x, x, out=y), lambda: y.zero_(), lambda: None]
    runs = clock.trace(steps, runs=3)
    assert [[len(step) for step in run] for run in runs] == [[1, 1, 0]] * 3
    assert "emset" in runs[0][1][0].name
    traced_us = runs[0][0][0].duration_us
    assert clock.elapsed_us(steps[0], runs=50) > 0.5 * traced_us
    clock.evict()
    clock.synchronise()
    assert clock.state().sm_clock_mhz
