import pytest
import torch
from hypothesis import given
from strategies import conv_shapes

from latency_model import ConvShape
from latency_model.errors import InputError


@given(conv_shapes())
def test_text_round_trip(shape):
    assert ConvShape.parse(shape.text) == shape
    assert ConvShape.parse(str(shape)).text == shape.text


@given(conv_shapes(), conv_shapes())
def test_equal_texts_are_equal_shapes(a, b):
    assert (a.text == b.text) == (a == b)


@given(conv_shapes())
def test_sizes_are_those_of_torch(shape):
    with torch.device("meta"):
        top, left, bottom, right = shape.padding
        x = torch.nn.functional.pad(
            torch.empty(shape.batch, shape.in_channels, shape.height, shape.width), (left, right, top, bottom)
        )
        conv = torch.nn.Conv2d(
            shape.in_channels,
            shape.out_channels,
            shape.kernel,
            shape.stride,
            dilation=shape.dilation,
            groups=shape.groups,
            bias=False,
        )
        out = conv(x)
    assert out.shape == (shape.batch, shape.out_channels, shape.out_height, shape.out_width)
    assert conv.weight.numel() == shape.weights
    assert shape.macs == out.numel() * conv.weight[0].numel()


def test_the_documented_form():
    shape = ConvShape.parse("8x64x56x56 ->128 k3 s2 p1 g1 conv+bias+relu fp16 nhwc")
    assert (shape.batch, shape.in_channels, shape.out_channels) == (8, 64, 128)
    assert (shape.out_height, shape.out_width) == (28, 28)
    asymmetric = ConvShape.parse("1x8x9x9 ->8 k3x1 s1 p0,0,1,1 d2 g8 conv fp32 nchw")
    assert asymmetric.padding == (0, 0, 1, 1) and asymmetric.depthwise


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"in_channels": 0}, "positive"),
        ({"groups": 3}, "groups"),
        ({"pattern": "conv+magic"}, "conv+magic"),
        ({"precision": "fp8"}, "fp8"),
        ({"layout": "chwn"}, "chwn"),
        ({"height": 1, "padding": (0, 0, 0, 0)}, "kernel"),
    ],
)
def test_what_is_no_convolution_is_refused(changes, words):
    with pytest.raises(InputError, match=words.replace("+", r"\+")):
        ConvShape(**{"batch": 1, "in_channels": 8, "height": 8, "width": 8, "out_channels": 8, **changes})


@pytest.mark.parametrize("text", ["", "conv", "8x64x56 ->128 k3 s2 p1 g1 conv fp16 nhwc"])
def test_parse_shows_the_form(text):
    with pytest.raises(InputError, match="write it like"):
        ConvShape.parse(text)


def test_site_is_shared_by_one_family():
    shape = ConvShape(1, 8, 9, 9, 16)
    assert shape.site == shape.with_channels(3, 5).site != ConvShape(1, 8, 8, 9, 16).site
    depthwise = ConvShape(1, 8, 9, 9, 8, groups=8)
    narrow = depthwise.with_channels(4, 4)
    assert narrow.groups == 4 and narrow.site == depthwise.site
    grouped = ConvShape(1, 8, 9, 9, 8, groups=2)
    assert grouped.site == grouped.with_channels(16, 4).site
    assert len({shape.site, depthwise.site, grouped.site, ConvShape(1, 8, 9, 9, 8, groups=4).site}) == 4
