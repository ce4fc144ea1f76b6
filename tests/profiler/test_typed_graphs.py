import dataclasses

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch.nn import functional

from latency_model import ConvShape
from latency_model.errors import MeasurementError
from latency_model.ops import OpShape
from latency_model.shapes import PATTERNS, PRECISIONS
from profiler.graphs import reference_inputs
from profiler.reference import bf16_bits
from profiler.typed_graphs import config_of_node, packed

CONVS = [
    ConvShape(2, 8, 6, 7, 12, groups=4, padding=(0, 1, 1, 2), dilation=(1, 2), pattern=pattern)
    for pattern in PATTERNS
]
OPS = [
    OpShape.parse(text)
    for text in (
        "op MaxPool 1x8x8x8 kernel_shape=3,3 pads=1,1,1,1 strides=2,2 fp32 nchw",
        "op GlobalAveragePool 1x8x4x4 fp32 nchw",
        "op Add 1x8x4x4 1x8x4x4 fp32 nchw",
        "op Gemm 2x8 w5x8 w5 transB=1 fp32 nchw",
        "op Resize 1x8x4x4 mode=nearest scales=1,1,2,2 fp32 nchw",
        "op Concat 1x8x4x4 1x4x4x4 axis=1 fp32 nchw",
        "op Clip 1x8 max=6 min=0 fp32 nchw",
        "op BatchNormalization 1x8x4x4 w8 w8 w8 w8 fp32 nchw",
        "op Reshape 1x8x4x4 shape=1,-1 fp32 nchw",
        "op Neg 1x8x4x4 fp32 nchw",
    )
]
ACTIVATIONS = {
    "relu": functional.relu,
    "clip": functional.relu6,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
}


def expected(shape, *, seed=0, copy=0):
    """The pattern by torch in fp32, from the public numbers alone."""
    given = reference_inputs(shape, seed=seed, copy=copy)
    x, *added = map(torch.from_numpy, given.inputs)
    weight, *bias = map(torch.from_numpy, given.weights)
    top, left, bottom, right = shape.padding
    x = functional.pad(x, (left, right, top, bottom))
    y = functional.conv2d(x, weight, bias[0] if bias else None, shape.stride, 0, shape.dilation, shape.groups)
    for residual in added:
        y = y + residual
    return ACTIVATIONS.get(shape.pattern.rpartition("+")[2], lambda z: z)(y).numpy()


def results(made):
    session = ort.InferenceSession(made.model, providers=["CPUExecutionProvider"])
    types = {1: np.float32, 10: np.float16}
    feeds = {name: values.astype(types[made.elements[name]]) for name, values in made.feeds.items()}
    names = [name for group in made.outputs for name in group]
    return dict(zip(names, session.run(names, feeds), strict=True))


def with_precision(configs, precision):
    return [dataclasses.replace(config, precision=precision) for config in configs]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_every_pattern_computes_what_the_reference_says(precision, channels_last):
    shapes = with_precision(CONVS, precision)
    made = packed(shapes, channels_last=channels_last, seed=3)
    found = results(made)
    # One rounding to eight bits at the end is half a step of 1/16; fp16 carries eleven bits.
    limit = {"fp16": 4e-3, "int8": 0.5 / 16 + 1e-4}.get(precision, 1e-5)
    for shape, (name,) in zip(shapes, made.outputs, strict=True):
        assert found[name].shape == made.sizes[name]
        wanted = expected(shape, seed=3)
        np.testing.assert_allclose(
            made.as_nchw(found[name]).astype(np.float32), wanted, atol=limit * max(1, np.abs(wanted).max())
            if precision != "int8" else limit, rtol=0,
        )  # fmt: skip


def test_copies_have_other_weights_and_the_same_input():
    shape = CONVS[-1]
    shared, own = (packed([shape], copies=3, markers=False, own_inputs=own) for own in (False, True))
    assert (len(shared.feeds), len(own.feeds)) == (2, 6)
    for made in (shared, own):
        found = results(made)
        for copy, name in enumerate(made.outputs[0]):
            np.testing.assert_allclose(found[name], expected(shape, copy=copy), atol=1e-5)
    with pytest.raises(MeasurementError, match="marked"):
        packed([shape], copies=2)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_graphs_are_valid_and_strongly_typed(precision):
    element = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
    made = packed(with_precision(CONVS + OPS, precision))
    model = onnx.load_model_from_string(made.model)
    onnx.checker.check_model(model, full_check=True)
    wanted = element.get(precision, onnx.TensorProto.FLOAT)
    assert set(made.elements.values()) == {wanted}
    assert {entry.type.tensor_type.elem_type for entry in (*model.graph.input, *model.graph.output)} == {
        wanted
    }
    weights = {c.data_type for c in model.graph.initializer if len(c.dims) == 4}
    assert weights == {onnx.TensorProto.INT8 if precision == "int8" else wanted}
    assert not any(node.op_type == "Cast" for node in model.graph.node)
    assert (model.opset_import[0].version, model.ir_version) == ((22, 10) if precision == "bf16" else (17, 8))


def test_bf16_graphs_compute_by_the_reference_evaluator():
    from onnx.reference import ReferenceEvaluator

    shape = ConvShape(1, 4, 5, 5, 6, precision="bf16", pattern="conv+relu")
    made = packed([shape], markers=False)
    model = onnx.load_model_from_string(made.model)
    dtype = numpy_helper.to_array(model.graph.initializer[0]).dtype
    feeds = {name: values.astype(dtype) for name, values in made.feeds.items()}
    (found,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(found.astype(np.float32), expected(shape), atol=0.05)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, max_value=2.0**127), min_size=1))
def test_bf16_rounds_as_torch_does(values):
    array = np.array(values, np.float32)
    ours = (bf16_bits(array).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(ours, torch.from_numpy(array).to(torch.bfloat16).float().numpy())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_operators_run_at_the_sizes_that_were_inferred(precision, channels_last):
    made = packed(with_precision(OPS, precision), channels_last=channels_last)
    found = results(made)
    assert all(found[name].shape == dims for name, dims in made.sizes.items())
    by_op = dict(zip((config.op for config in OPS), (found[name] for (name,) in made.outputs), strict=True))
    x = reference_inputs(dataclasses.replace(OPS[2], precision=precision)).inputs
    total = made.as_nchw(by_op["Add"]).astype(np.float32)
    np.testing.assert_allclose(total, np.clip(x[0] + x[1], -8, 127 / 16), atol=0.04)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("op Nothing 1x8 fp32 nchw", "no operator Nothing"),
        ("op Relu 1x8 alpha=1 fp32 nchw", "no attribute or input 'alpha'"),
        ("op Concat 1x8 axis=first fp32 nchw", "axis=first"),
        ("op Gemm 2x8 w5x9 transB=1 fp32 nchw", "do not fit"),
    ],
)
def test_what_onnx_cannot_say_is_a_sentence(text, words):
    with pytest.raises(MeasurementError, match=words) as caught:
        packed([OpShape.parse(text)], markers=False)
    assert text in str(caught.value)


def test_opsets_do_not_mix():
    with pytest.raises(MeasurementError, match="opset"):
        packed([CONVS[0], dataclasses.replace(CONVS[0], precision="bf16")])


def test_an_int8_convolution_is_fused_into_one_operator(tmp_path):
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    made = packed([ConvShape(1, 8, 6, 6, 8, pattern="conv+bias", precision="int8")], markers=False)
    ort.InferenceSession(made.model, settings, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(settings.optimized_model_filepath).graph.node]
    assert "QLinearConv" in kinds
    assert not {"Conv", "FusedConv"} & set(kinds)


def test_a_bias_can_stay_a_float():
    shape = ConvShape(1, 8, 6, 6, 8, pattern="conv+bias", precision="int8")
    made = packed([shape], markers=False, quantised_bias=False)
    (found,) = results(made).values()
    np.testing.assert_allclose(found, expected(shape), atol=0.5 / 16 + 1e-4)


def test_names_of_nodes_say_the_configuration():
    names = ("config12/0/conv", "fused config12/0/conv", "config12/0/act_nchwc", "Transpose_token_3")
    assert [config_of_node(name) for name in names] == [12, 12, 12, None]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 20), st.integers(1, 9), st.integers(1, 20), st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2]), st.sampled_from(PATTERNS), st.sampled_from(PRECISIONS), st.booleans(),
)  # fmt: skip
def test_every_shape_makes_a_valid_model(
    batch, inputs, size, outputs, kernel, stride, pattern, precision, last
):
    shape = ConvShape(
        batch, inputs, size, size, outputs, (kernel, kernel), (stride, stride), (kernel // 2,) * 4,
        pattern=pattern, precision=precision,
    )  # fmt: skip
    made = packed([shape, shape], channels_last=last)
    onnx.checker.check_model(onnx.load_model_from_string(made.model), full_check=True)
    assert len(made.outputs) == 2
