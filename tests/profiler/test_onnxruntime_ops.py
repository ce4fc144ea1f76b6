import pytest

from latency_model.errors import MeasurementError
from latency_model.ops import OpShape
from profiler.backends.onnxruntime_cpu import OnnxRuntimeCpu
from profiler.backends.onnxruntime_ops import BELOW_RESOLUTION, OpTimer, row_of
from profiler.sampling import Policy, Sampled

SHAPE = OpShape.parse("op Add 1x32x8x8 1x32x8x8 fp32 nchw")


def sampled(median, low, high):
    return Sampled((low, median, high), median, low, high, stable=True)


def test_sinks_are_taken_off_and_widen_the_interval():
    row = row_of(
        sampled(10, 9, 11), [(1, sampled(1, 0.9, 1.1)), (-2, sampled(1, 0.9, 1.1))], run_id="r", what="x"
    )
    assert row.latency_us == pytest.approx(11)
    assert (row.low_us, row.high_us) == (pytest.approx(9.7), pytest.approx(12.3))
    assert row.min_us == pytest.approx(10)
    assert row.flags == ()


def test_a_time_below_the_resolution_is_the_middle_of_what_is_possible():
    row = row_of(sampled(-0.1, -0.5, 0.4), [], run_id="r", what="x")
    assert row.latency_us == pytest.approx(0.2)
    assert (row.low_us, row.high_us) == (0.0, pytest.approx(0.4))
    assert row.flags == (BELOW_RESOLUTION,)
    positive = row_of(sampled(0.1, -0.5, 0.4), [], run_id="r", what="x")
    assert positive.latency_us == pytest.approx(0.1)
    assert positive.flags == (BELOW_RESOLUTION,)


def test_nothing_positive_is_an_error():
    with pytest.raises(MeasurementError, match="busy: op Relu"):
        row_of(sampled(-2, -3, -1), [], run_id="r", what="op Relu")


def test_the_row_is_the_difference_of_the_two_sessions_by_branch():
    """A clock that says what each graph costs: 5 us a branch with the operator, 3 without, 0.5 a sink."""

    def runner(model, feed):
        import onnx

        nodes = [node.op_type for node in onnx.load_model_from_string(model).graph.node]
        if "LeakyRelu" in nodes and nodes.count("LeakyRelu") == 1:
            cost = 7.0 + 0.5 * nodes.count("Conv")
        else:
            cost = (
                100.0
                + 2.0 * nodes.count("LeakyRelu")
                + 3.0 * nodes.count("Add")
                + 0.5 * (nodes.count("Conv") - nodes.count("LeakyRelu"))
            )
        assert feed
        return lambda: cost

    timer = OpTimer(runner, policy=Policy(), seed=0)
    assert timer.measure(SHAPE, run_id="r").latency_us == pytest.approx(3.0)


@pytest.mark.parametrize(
    "text",
    [
        "op Add 1x32x28x28 1x32x28x28 fp32 nchw",
        "op ReduceMean 1x64x14x14 axes=2,3 fp32 nchw",
        "op Gemm 1x256 w100x256 w100 fp32 nchw",
        "op ReorderOutput 1x64x28x28 fp32 nchw",
        "op ReorderInput 1x64x28x28 fp32 nchw",
    ],
)
def test_the_runtime_times_an_operator(text):
    with OnnxRuntimeCpu(policy=Policy(max_seconds=0.02, warm_up_seconds=0.02)) as backend:
        row = backend.measure(OpShape.parse(text), run_id="r")
    assert row.method == "host-increment"
    assert 0 <= row.low_us <= row.latency_us <= row.high_us


def test_what_the_runtime_cannot_time_is_said_in_a_sentence():
    with OnnxRuntimeCpu() as backend:
        with pytest.raises(MeasurementError, match="no graph to time the operator Einsum"):
            backend.measure(OpShape("Einsum", ((1, 8),)), run_id="r")
        with pytest.raises(MeasurementError, match="bf16"):
            backend.measure(OpShape("Relu", ((1, 8),), precision="bf16"), run_id="r")
        with pytest.raises(MeasurementError, match="NCHW"):
            backend.measure(OpShape("Relu", ((1, 8),), layout="nhwc"), run_id="r")
        with pytest.raises(MeasurementError, match="refused a graph"):
            backend.measure(OpShape("Transpose", ((1, 8),), attributes=(("perm", "0,1,2"),)), run_id="r")
