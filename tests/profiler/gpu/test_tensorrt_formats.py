import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import MeasurementError
from profiler.gpu.tensorrt_formats import allowed_formats, pack, physical_dims, unpack

NAMES = ("LINEAR", "HWC", "HWC8", "HWC16", "CHW4", "CHW32")
SIZES = st.tuples(*(st.integers(1, 4), st.integers(1, 40), st.integers(1, 4), st.integers(1, 4)))


def offset(name, dims, n, c, h, w):
    """Where TensorRT's documentation puts one element, written out."""
    _, channels, height, width = dims
    if name == "LINEAR":
        return ((n * channels + c) * height + h) * width + w
    vector = int(name[3:] or 1)
    vectors = (channels + vector - 1) // vector
    if name.startswith("HWC"):
        return ((n * height + h) * width + w) * vectors * vector + c
    return (((n * vectors + c // vector) * height + h) * width + w) * vector + c % vector


@given(dims=SIZES, name=st.sampled_from(NAMES))
def test_every_element_is_where_the_format_puts_it(dims, name):
    array = np.arange(1, np.prod(dims) + 1, dtype=np.float32).reshape(dims)
    packed = pack(array, name)
    assert packed.shape == physical_dims(dims, name)
    flat = packed.ravel()
    for n, c, h, w in itertools.product(*map(range, dims)):
        assert flat[offset(name, dims, n, c, h, w)] == array[n, c, h, w]
    assert np.count_nonzero(flat) == array.size  # what pads the channels is zero
    assert np.array_equal(unpack(packed, name, dims), array)


def test_an_unknown_format_is_named():
    with pytest.raises(MeasurementError, match="CDHW32"):
        pack(np.zeros((1, 1, 1, 1)), "CDHW32")


def test_linear_tensors_of_a_network_may_have_any_rank():
    array = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(unpack(pack(array, "LINEAR"), "LINEAR", (2, 3)), array)


def test_channel_last_is_forced_by_the_layout_and_offered_otherwise():
    trt = SimpleNamespace(TensorFormat=SimpleNamespace(LINEAR=0, HWC=8, HWC8=2, HWC16=11))
    nhwc = allowed_formats(trt, "tensorrt_rtx", precision="fp16", layout="nhwc")
    assert nhwc == 1 << 8
    assert allowed_formats(trt, "tensorrt_rtx", precision="fp16", layout="nchw") == nhwc | 1
    assert allowed_formats(trt, "tensorrt", precision="bf16", layout="nhwc") == 1 << 2
