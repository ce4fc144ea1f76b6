"""What every back end must do: inherit the suite in a test module and say how to open yours.

from profiler.testing import BackendSuite

class TestMine(BackendSuite):
    def open(self):
        return open_backend("mine")
"""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from latency_model.environment import Environment
from latency_model.errors import MeasurementError
from latency_model.measurement import METHODS, Measurement
from latency_model.shapes import PRECISIONS, ConvShape
from profiler.backends.base import Backend

__all__ = ["BackendSuite", "small_network"]

SMALL = ConvShape(1, 8, 8, 8, 16)
LARGE = ConvShape(2, 64, 32, 32, 128)


def small_network(*, channels: int, size: int) -> bytes:
    """Return an ONNX network of two convolutions with ``channels`` channels on ``size`` x ``size`` images."""
    rng, constants = np.random.default_rng(0), []
    for name, dims in (("w0", (channels, 3, 3, 3)), ("w1", (channels, channels, 3, 3))):
        values = rng.standard_normal(dims).astype(np.float32) * 0.1
        constants.append(numpy_helper.from_array(values, name))
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])
    result = helper.make_tensor_value_info("d", TensorProto.FLOAT, [1, channels, 1, 1])
    graph = helper.make_graph(nodes, "small", [image], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


class BackendSuite:
    """The conformance suite of ``Backend``. Override ``open``; leave out what your device cannot do at all.

    ``patterns`` are the fused patterns to try; ``times_networks`` is False for a runtime that runs no ONNX.
    """

    times_networks = True
    patterns = (
        "conv",
        "conv+bias",
        "conv+bias+relu",
        "conv+bias+clip",
        "conv+bias+add",
        "conv+bias+add+relu",
        "conv+bias+hardswish",
        "conv+bias+silu",
    )

    def open(self) -> Backend:
        """Return a new back end."""
        raise NotImplementedError

    def test_is_a_backend(self) -> None:
        """It has the attributes of the protocol."""
        backend = self.open()
        assert isinstance(backend, Backend)
        assert backend.precisions
        assert set(backend.precisions) <= set(PRECISIONS)

    def test_environment_is_stable(self) -> None:
        """The environment is the same at every call, in every instance, and after measuring."""
        with self.open() as backend:
            before = backend.environment
            backend.measure(SMALL, run_id="suite")
            assert backend.environment == before
        with self.open() as other:
            assert other.environment == before
        assert Environment.from_json(before.to_json()) == before
        assert before.runtime_version

    def test_measures_a_positive_latency_with_an_interval(self) -> None:
        """A row has everything that a reader of a table relies on."""
        with self.open() as backend:
            row = backend.measure(SMALL, run_id="suite")
        assert isinstance(row, Measurement)
        assert row.low_us <= row.latency_us <= row.high_us
        assert row.p5_us <= row.p25_us <= row.p75_us <= row.p95_us
        assert row.min_us <= row.p5_us
        assert row.method in METHODS
        assert row.run_id == "suite"
        assert row.measured_at

    def test_more_work_takes_longer(self) -> None:
        """Four hundred times the arithmetic is not free."""
        with self.open() as backend:
            small = backend.measure(SMALL, run_id="suite").latency_us
            assert backend.measure(LARGE, run_id="suite").latency_us > 3 * small

    def test_every_pattern_can_be_timed(self) -> None:
        """Each fused pattern gives a row."""
        with self.open() as backend:
            for pattern in self.patterns:
                row = backend.measure(ConvShape(1, 16, 12, 12, 16, pattern=pattern), run_id="suite")
                assert row.latency_us > 0, pattern

    def test_grouped_and_odd_shapes_can_be_timed(self) -> None:
        """Depthwise, grouped, dilated, asymmetric and unaligned convolutions give rows."""
        shapes = (
            ConvShape(1, 24, 10, 10, 24, groups=24),
            ConvShape(1, 16, 10, 10, 32, groups=4),
            ConvShape(1, 16, 10, 10, 16, dilation=(2, 2), padding=(2, 2, 2, 2)),
            ConvShape(1, 16, 10, 14, 16, kernel=(1, 5), padding=(0, 2, 0, 2)),
            ConvShape(1, 13, 9, 9, 7, stride=(2, 2)),
            ConvShape(1, 16, 10, 10, 16, padding=(0, 0, 1, 1), stride=(2, 2)),
        )
        with self.open() as backend:
            for shape in shapes:
                assert backend.measure(shape, run_id="suite").latency_us > 0, shape

    def test_what_cannot_be_timed_is_a_measurement_error(self) -> None:
        """A precision that the back end lacks costs one configuration, and the next one works."""
        with self.open() as backend:
            for precision in set(PRECISIONS) - set(backend.precisions):
                with pytest.raises(MeasurementError) as caught:
                    backend.measure(ConvShape(1, 8, 8, 8, 8, precision=precision), run_id="suite")
                assert precision in str(caught.value)
            backend.measure(SMALL, run_id="suite")

    def test_many_configurations_yield_each_once(self) -> None:
        """More than some back ends put into one program: each has its row, once."""
        with self.open() as backend:
            configs = [ConvShape(1, 8, 8, 8, 8 * width) for width in range(1, 8)]
            outcomes = list(backend.measure_many(configs, run_id="suite"))
            assert len(outcomes) == len(configs)
            rows = dict(outcomes)
            assert set(rows) == set(configs)
            assert all(isinstance(row, Measurement) and row.run_id == "suite" for row in rows.values())

    def test_one_that_fails_does_not_stop_the_others(self) -> None:
        """Among many, what cannot be timed yields its error and the others their rows."""
        with self.open() as backend:
            lacking = sorted(set(PRECISIONS) - set(backend.precisions))
            if not lacking:
                return
            bad = ConvShape(1, 8, 8, 8, 8, precision=lacking[0])
            good = [ConvShape(1, 8, 8, 8, 16 * width) for width in (1, 2, 3)]
            rows = dict(backend.measure_many([good[0], bad, *good[1:]], run_id="suite"))
            assert isinstance(rows[bad], MeasurementError)
            assert all(isinstance(rows[shape], Measurement) for shape in good)

    def test_networks_keep_their_order(self) -> None:
        """One row per network, in the order given."""
        small, large = small_network(channels=8, size=8), small_network(channels=64, size=48)
        with self.open() as backend:
            if not self.times_networks:
                with pytest.raises(MeasurementError):
                    backend.time_networks([small])
                return
            rows = backend.time_networks([large, small, large], rounds=5, run_id="suite")
            assert len(rows) == 3
            assert rows[1].latency_us < min(rows[0].latency_us, rows[2].latency_us)
            assert all(row.run_id == "suite" for row in rows)
            assert backend.time_networks([]) == []

    def test_a_broken_network_is_an_error_of_ours(self) -> None:
        """Bytes that are no network are a ``MeasurementError``, not a runtime's own exception."""
        empty = onnx.ModelProto().SerializeToString()
        with self.open() as backend:
            for model in (b"not onnx", empty):
                with pytest.raises(MeasurementError):
                    backend.time_networks([model])

    def test_leaving_twice_does_no_harm(self) -> None:
        """The context can be left again after an error inside it."""
        backend = self.open()
        with contextlib.suppress(ZeroDivisionError), backend:
            raise ZeroDivisionError
        backend.__exit__(None, None, None)
