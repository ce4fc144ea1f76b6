from collections import Counter

import onnx
import pytest

from latency_model import ConvShape
from latency_model.errors import InputError, MeasurementError
from profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu, session
from profiler.graphs import conv_copies, sink_copies
from profiler.testing import BackendSuite, small_network

COPIES = 4
# A chain needs one more convolution for its first residual.
FUSED = [
    ("conv", 0),
    ("conv+bias", 0),
    ("conv+bias+relu", 0),
    ("conv+bias+clip", 0),
    ("conv+bias+hardswish", 0),
    ("conv+bias+add", 1),
    ("conv+bias+add+relu", 1),
]


class TestConformance(BackendSuite):
    def open(self):
        return OnnxRuntimeCpu()


def operators(model, path):
    session(model, optimised_path=str(path))
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("channels", [16, 20, 32])
@pytest.mark.parametrize(("pattern", "extra"), FUSED)
def test_a_copy_is_one_fused_convolution_and_a_sink(tmp_path, pattern, extra, channels):
    shape = ConvShape(1, channels, 16, 16, channels, pattern=pattern)
    seen = operators(conv_copies(shape, COPIES), tmp_path / "optimised.onnx")
    if "ReorderOutput" not in seen:
        # A machine without the blocked layout: fused all the same, nothing to reorder.
        assert seen["Conv"] + seen["FusedConv"] == 2 * COPIES + extra
        assert not {"Add", "Relu", "Clip"} & set(seen)
        return
    # The input is reordered once; what leaves is a pixel a copy.
    assert seen == {"Conv": 2 * COPIES + extra, "ReorderInput": 1, "ReorderOutput": COPIES}


def test_sinks_are_not_merged(tmp_path):
    seen = operators(sink_copies(ConvShape(1, 32, 16, 16, 32), COPIES), tmp_path / "optimised.onnx")
    assert seen["Conv"] == COPIES + 1


def test_a_sink_is_measured_once_for_each_output(monkeypatch):
    with OnnxRuntimeCpu() as backend:
        backend.measure(ConvShape(1, 8, 8, 8, 16), run_id="r")
        backend.measure(ConvShape(1, 24, 8, 8, 16), run_id="r")
        assert len(backend._sinks) == 1
        backend.measure(ConvShape(1, 8, 8, 8, 24), run_id="r")
        assert len(backend._sinks) == 2


def test_a_row_is_far_below_the_time_of_a_session():
    shape = ConvShape(1, 16, 8, 8, 16)
    with OnnxRuntimeCpu() as backend:
        row = backend.measure(shape, run_id="r")
        (whole,) = backend.time_networks([conv_copies(shape, 1)])
    assert row.method == "host-increment"
    assert whole.method == "host"
    assert row.latency_us < whole.latency_us


def test_what_the_cpu_cannot_time_is_said_in_a_sentence():
    with OnnxRuntimeCpu() as backend:
        with pytest.raises(MeasurementError, match="fp16"):
            backend.measure(ConvShape(1, 8, 8, 8, 8, precision="fp16"), run_id="r")
        with pytest.raises(MeasurementError, match="NCHW"):
            backend.measure(ConvShape(1, 8, 8, 8, 8, layout="nhwc"), run_id="r")
        free = onnx.load_model_from_string(small_network(channels=8, size=8))
        free.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
        with pytest.raises(MeasurementError, match="fixed sizes"):
            backend.time_networks([free.SerializeToString()])


def test_options_are_part_of_the_environment():
    plain, threaded = OnnxRuntimeCpu().environment, OnnxRuntimeCpu(threads=2).environment
    assert any("threads" in text or "options" in text for text in plain.differences(threaded))
    assert dict(plain.options)["optimisation"] == "all"
    with pytest.raises(InputError, match="fastest"):
        OnnxRuntimeCpu(optimisation="fastest")
    with pytest.raises(InputError, match="cuda"):
        OnnxRuntimeCpu(device="cuda:0")
