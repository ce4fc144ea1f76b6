import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch.nn import functional

from latency_model import ConvShape
from latency_model.errors import MeasurementError
from latency_model.shapes import PATTERNS
from profiler.backends.onnxruntime_cpu import session
from profiler.graphs import INPUT, conv_copies, input_array, sink_copies


def constants(model):
    return {c.name: numpy_helper.to_array(c) for c in onnx.load_model_from_string(model).graph.initializer}


def expected(shape, model):
    """What the copies compute, by torch: the pixel at the corner, mixed by the sink."""
    values = {name: torch.from_numpy(np.array(array)) for name, array in constants(model).items()}
    x = torch.from_numpy(input_array(shape))
    top, left, bottom, right = shape.padding
    x = functional.pad(x, (left, right, top, bottom))
    conv = lambda name: functional.conv2d(  # noqa: E731
        x, values[f"w{name}"], values.get(f"b{name}"), shape.stride, 0, shape.dilation, shape.groups
    )
    act = {
        "relu": functional.relu,
        "clip": functional.relu6,
        "hardswish": functional.hardswish,
        "silu": functional.silu,
    }.get(shape.pattern.rpartition("+")[2], lambda y: y)
    residual = conv("first") if "add" in shape.pattern else 0.0
    results = []
    for copy in range(sum(name.startswith("w") for name in values) - ("wfirst" in values)):
        y = act(conv(copy) + residual)
        residual = y if "add" in shape.pattern else 0.0
        results.append((y[:, :, :1, :1] * values["pick"]).sum(1, keepdim=True).numpy())
    return results


@pytest.mark.parametrize("pattern", PATTERNS)
def test_copies_compute_the_pattern(pattern):
    shape = ConvShape(2, 8, 6, 7, 12, groups=4, padding=(0, 1, 1, 2), dilation=(1, 2), pattern=pattern)
    model = conv_copies(shape, 3)
    onnx.checker.check_model(onnx.load_model_from_string(model), full_check=True)
    results = session(model).run(None, {INPUT: input_array(shape)})
    for ours, theirs in zip(results, expected(shape, model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_weights_are_random_seeded_and_differ_between_copies():
    shape = ConvShape(1, 8, 6, 6, 8)
    first, again, other = (constants(conv_copies(shape, 3, seed=seed)) for seed in (0, 0, 1))
    assert all((first[name] == again[name]).all() for name in first)
    assert not (first["w0"] == other["w0"]).any()
    assert not (first["w0"] == first["w1"]).all()
    assert all(np.abs(values).mean() > 0.01 for values in first.values())
    assert all((values != 0).all() for values in first.values())
    assert np.abs(input_array(shape)).mean() > 0.5


def test_precision_is_that_of_the_shape():
    model = onnx.load_model_from_string(conv_copies(ConvShape(1, 8, 6, 6, 8, precision="fp16"), 2))
    assert {c.data_type for c in model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    with pytest.raises(MeasurementError, match="int8"):
        conv_copies(ConvShape(1, 8, 6, 6, 8, precision="int8"), 2)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 40),
    st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.sampled_from(PATTERNS), st.integers(1, 4),
)  # fmt: skip
def test_every_shape_makes_a_valid_model(
    batch, inputs, height, width, outputs, kernel, stride, pattern, copies
):
    shape = ConvShape(
        batch, inputs, height, width, outputs, (kernel, kernel), (stride, stride), (kernel // 2,) * 4,
        pattern=pattern,
    )  # fmt: skip
    model = onnx.load_model_from_string(conv_copies(shape, copies))
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.output) == copies


def test_sinks_share_one_convolution():
    model = onnx.load_model_from_string(sink_copies(ConvShape(1, 8, 6, 6, 8), 5))
    onnx.checker.check_model(model, full_check=True)
    sinks = [node for node in model.graph.node if node.name.startswith("out")]
    assert len(sinks) == len(model.graph.output) == 5
    values = {tensor.name: tensor.raw_data for tensor in model.graph.initializer}
    assert len({values[sink.input[1]] for sink in sinks}) == 5


@pytest.mark.parametrize("size", [1, 6])
def test_sinks_are_the_same_operators_beside_copies_and_alone(size):
    """What is subtracted must be what was added: of one pixel a stride would make another kernel."""
    shape = ConvShape(1, 8, size, size, 20)

    def sinks(model):
        nodes = onnx.load_model_from_string(model).graph.node
        return {str(node.attribute) for node in nodes if node.name.startswith("out")}

    assert sinks(sink_copies(shape, 4)) == sinks(conv_copies(shape, 4))
