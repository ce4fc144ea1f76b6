import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model import ConvShape
from latency_model.ops import OpShape
from profiler.gpu import check
from profiler.gpu.check import NOT_COMPARABLE, deviation, reference
from profiler.gpu.fake import fake_inputs


def slow_conv(shape, numbers):
    """The definition, one output at a time."""
    x, w = numbers.inputs[0].astype(np.float64), numbers.weights[0].astype(np.float64)
    top, left, bottom, right = shape.padding
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    y = np.zeros((shape.batch, shape.out_channels, shape.out_height, shape.out_width))
    per_in, per_out = shape.in_channels // shape.groups, shape.out_channels // shape.groups
    for n, o, i, j in itertools.product(*map(range, y.shape)):
        group = o // per_out * per_in
        rows = slice(
            i * shape.stride[0],
            i * shape.stride[0] + shape.dilation[0] * (shape.kernel[0] - 1) + 1,
            shape.dilation[0],
        )
        cols = slice(
            j * shape.stride[1],
            j * shape.stride[1] + shape.dilation[1] * (shape.kernel[1] - 1) + 1,
            shape.dilation[1],
        )
        y[n, o, i, j] = (x[n, group : group + per_in, rows, cols] * w[o]).sum()
    if "bias" in shape.pattern:
        y += numbers.weights[1][:, None, None]
    if "add" in shape.pattern.split("+"):
        y += numbers.inputs[1]
    last = shape.pattern.split("+")[-1]
    gate = 1 / (1 + np.exp(-y))
    return {
        "relu": np.maximum(y, 0),
        "clip": np.clip(y, 0, 6),
        "silu": y * gate,
        "hardswish": y * np.clip(y + 3, 0, 6) / 6,
    }.get(last, y)


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(2, 4, 5, 6, 6, pattern="conv"),
        ConvShape(1, 4, 5, 5, 6, stride=(2, 1), padding=(0, 0, 1, 1), pattern="conv+bias+add+relu"),
        ConvShape(1, 4, 7, 7, 4, groups=4, dilation=(2, 2), padding=(2, 2, 2, 2), pattern="conv+bias+silu"),
        ConvShape(1, 4, 5, 5, 6, groups=2, kernel=(1, 3), padding=(0, 1, 0, 1), pattern="conv+bias+clip"),
        ConvShape(1, 3, 5, 5, 2, pattern="conv+add+hardswish"),
    ],
)
def test_the_reference_is_the_definition(shape):
    numbers = fake_inputs(shape, 3)
    np.testing.assert_allclose(reference(shape, numbers), slow_conv(shape, numbers), rtol=1e-4, atol=1e-4)
    assert deviation(shape, slow_conv(shape, numbers).astype(np.float32), numbers) < 1e-5


@given(st.sampled_from([1, 2]), st.sampled_from([1, 3]), st.booleans())
@settings(max_examples=8, deadline=None)
def test_a_part_of_a_large_convolution_is_checked_rightly(groups, batch, add):
    pattern = "conv+bias+add+relu" if add else "conv+bias"
    shape = ConvShape(batch, 8, 4, 4, 40, groups=groups, pattern=pattern)
    numbers = fake_inputs(shape, 0)
    output = reference(shape, numbers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "_MACS", 0)
        assert deviation(shape, output, numbers) < 1e-6
        for where in ((0, 0), (-1, -1)):
            wrong = output.copy()
            wrong[where] += np.abs(output).max()
            assert 0.999 <= deviation(shape, wrong, numbers) < 3


def test_the_deviation_is_relative_to_the_largest_output():
    shape = ConvShape(1, 4, 5, 5, 6, pattern="conv")
    numbers = fake_inputs(shape, 0)
    output = reference(shape, numbers)
    shifted = output + np.float32(0.01 * np.abs(output).max())
    assert deviation(shape, shifted, numbers) == pytest.approx(0.01, rel=1e-2)
    shifted[0, 0, 0, 0] = np.nan
    assert deviation(shape, shifted, numbers) == NOT_COMPARABLE
    assert deviation(shape, output[:, :3], numbers) == NOT_COMPARABLE


def test_easy_operators_have_a_reference_and_others_none():
    add = OpShape("Add", ((1, 4, 3, 3), (1, 4, 3, 3)))
    numbers = fake_inputs(add, 0)
    assert deviation(add, numbers.inputs[0] + numbers.inputs[1], numbers) < 1e-6
    assert deviation(add, numbers.inputs[0], numbers) > 0.1
    pool = OpShape("GlobalAveragePool", ((1, 4, 3, 3),))
    numbers = fake_inputs(pool, 0)
    assert deviation(pool, numbers.inputs[0].mean(axis=(2, 3), keepdims=True), numbers) < 1e-6
    resize = OpShape("Resize", ((1, 4, 3, 3),), attributes=(("mode", "linear"),))
    assert deviation(resize, numbers.inputs[0], fake_inputs(resize, 0)) is None
