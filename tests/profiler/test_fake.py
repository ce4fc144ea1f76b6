import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model import ConvShape
from latency_model.errors import MeasurementError
from latency_model.ops import OpShape
from profiler.backends.fake import FakeDevice
from profiler.testing import BackendSuite, small_network

SHAPE = ConvShape(1, 32, 16, 16, 32)


class TestConformance(BackendSuite):
    def open(self):
        return FakeDevice()


def test_rows_are_the_same_in_every_instance_and_near_the_truth():
    first, again = (FakeDevice(noise=0.02).measure(SHAPE, run_id="r") for _ in range(2))
    assert first.latency_us == again.latency_us
    assert first.latency_us == pytest.approx(FakeDevice().true_us(SHAPE), rel=0.03)
    assert FakeDevice(seed=1, noise=0.02).measure(SHAPE, run_id="r").latency_us != first.latency_us


@given(st.integers(1, 64), st.integers(1, 64))
def test_the_truth_is_a_staircase_in_both_channel_counts(inputs, outputs):
    device = FakeDevice(tile_in=8, tile_out=16)
    rounded = SHAPE.with_channels(-(-inputs // 8) * 8, -(-outputs // 16) * 16)
    assert device.true_us(SHAPE.with_channels(inputs, outputs)) == device.true_us(rounded)


def test_another_step_is_another_latency():
    device = FakeDevice()
    assert device.true_us(SHAPE.with_channels(32, 33)) > device.true_us(SHAPE.with_channels(32, 32))
    assert device.true_us(SHAPE.with_channels(33, 32)) > device.true_us(SHAPE.with_channels(32, 32))


def test_a_network_costs_the_sum_of_its_operators():
    device = FakeDevice(other_us=2.5)
    first = ConvShape(1, 3, 8, 8, 16, pattern="conv+relu")
    second = ConvShape(1, 16, 8, 8, 16, pattern="conv")
    pool = OpShape("GlobalAveragePool", ((1, 16, 8, 8),))
    expected = device.true_us(first) + device.true_us(second) + device.true_us(pool)
    model = small_network(channels=16, size=8)
    assert device.network_us(model) == pytest.approx(expected)
    assert device.time_networks([model])[0].latency_us == pytest.approx(expected, rel=0.02)


def test_it_fails_where_it_is_told_to():
    device = FakeDevice(fail_on=[SHAPE], fail_times=1)
    with pytest.raises(MeasurementError):
        device.measure(SHAPE, run_id="r")
    device.measure(SHAPE, run_id="r")


def test_it_drifts_when_it_is_told_to():
    device = FakeDevice(drift_after=1, drift_factor=1.5)
    first, second = (device.measure(SHAPE, run_id="r").latency_us for _ in range(2))
    assert second == pytest.approx(1.5 * first)


def test_it_takes_the_process_down_when_it_is_told_to():
    code = (
        "from latency_model import ConvShape; from profiler.backends.fake import FakeDevice\n"
        "device = FakeDevice(crash_after=2)\n"
        "for _ in range(3): print(device.measure(ConvShape(1, 8, 8, 8, 8), run_id='r').samples, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (9, 2)
