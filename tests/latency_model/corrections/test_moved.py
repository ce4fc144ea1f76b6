import itertools

import numpy as np
import pytest

from latency_model.corrections import Caches, part_of, weight_bytes
from latency_model.corrections.moved import moved, moved_at_counts
from latency_model.errors import InputError
from latency_model.network import Axis, Channels, OpSite, Site
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

CONV = ConvShape(2, 8, 5, 5, 12, stride=(2, 2))
GROUP = Channels(terms=(("g", 1),))


def test_the_bytes_of_a_convolution_are_those_counted_by_hand():
    found = moved(CONV)
    assert (found.activations, found.weights) == (4 * 2 * (8 * 25 + 12 * 9), 4 * 8 * 12 * 9)
    added = moved(ConvShape(2, 8, 5, 5, 12, stride=(2, 2), pattern="conv+add", precision="fp16"))
    assert added.activations == 2 * 2 * (8 * 25 + 2 * 12 * 9)
    assert added.weights == found.weights / 2
    depthwise = moved(ConvShape(1, 6, 5, 5, 12, groups=6))
    assert depthwise.weights == 4 * 12 * 9


def test_the_weights_of_a_linear_layer_count_and_the_total_is_their_sum():
    linear = OpShape.parse("op Gemm 2x8 w10x8 w10 fp32 nchw")
    assert moved(linear).weights == 4 * 90
    assert moved(linear).activations == 2 * 4 * 16
    assert weight_bytes([linear, CONV]) == 4 * 90 + 4 * 8 * 12 * 9


def test_parts():
    shapes = [CONV, ConvShape(1, 8, 5, 5, 8, groups=2), ConvShape(1, 8, 5, 5, 8, groups=8)]
    shapes += [OpShape.parse("op Relu 1x4x2x2 fp32 nchw"), OpShape.parse("op ReorderInput 1x4x2x2 fp32 nchw")]
    assert [part_of(shape) for shape in shapes] == ["dense", "grouped", "depthwise", "op", "reorder"]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_at_all_counts_is_the_convolution_at_each(groups):
    shape = ConvShape(2, 8, 5, 5, 12, groups=groups, pattern="conv+bias+add")
    found = moved_at_counts(Site("a", shape, GROUP, Channels(terms=(("h", 1),))), (9, 13))
    for into, out in itertools.product(range(groups, 9, groups), range(groups, 13, groups)):
        at = moved(shape.with_channels(into, out))
        assert found.activations[into, out] == pytest.approx(at.activations)
        assert found.weights[into, out] == pytest.approx(at.weights)


@pytest.mark.parametrize("times", [1, 2])
def test_a_depthwise_convolution_has_one_count(times):
    shape = ConvShape(1, 6, 5, 5, 6 * times, groups=6)
    found = moved_at_counts(Site("a", shape, GROUP, Channels(terms=(("g", times),))), (7,))
    for count in range(1, 7):
        at = moved(shape.with_channels(count, count * times))
        assert (found.activations[count], found.weights[count]) == (at.activations, at.weights)


OPS = [
    OpSite("add", OpShape.parse("op Add 1x6x4x4 1x6x4x4 fp16 nchw"), (Axis(0, 1, GROUP), Axis(1, 1, GROUP))),
    OpSite("scale", OpShape.parse("op Mul 1x6x4x4 w6x1x1 fp32 nchw"), (Axis(0, 1, GROUP), Axis(1, 0, GROUP))),
    OpSite(
        "cat",
        OpShape.parse("op Concat 1x2x4x4 1x4x4x4 axis=1 fp32 nchw"),
        (Axis(0, 1, Channels(2)), Axis(1, 1, Channels(0, (("g", 1),)))),
    ),
]


@pytest.mark.parametrize("site", OPS, ids=lambda site: site.name)
def test_an_operator_at_all_counts_is_the_operator_at_each(site):
    most = 4 if site.name == "cat" else 6
    lengths = (site.inputs.count({"g": most}) + 1,)
    found = moved_at_counts(site, lengths)
    for count in range(1, most + 1):
        at, place = moved(site.at({"g": count})), site.inputs.count({"g": count})
        assert found.activations[place] == pytest.approx(at.activations)
        assert np.broadcast_to(found.weights, lengths)[place] == pytest.approx(at.weights)


def test_a_linear_layer_has_two_counts_or_its_outputs_in_full():
    axes = (Axis(0, 1, GROUP), Axis(1, 1, GROUP))
    free = (Axis(1, 0, Channels(terms=(("h", 1),)), "out"), Axis(2, 0, Channels(terms=(("h", 1),)), "out"))
    shape = OpShape.parse("op Gemm 2x8 w10x8 w10 fp32 nchw")
    found = moved_at_counts(OpSite("fc", shape, (*axes, *free)), (9, 11))
    line = moved_at_counts(OpSite("fc", shape, (*axes, *free)), (9,))
    for into, out in itertools.product(range(1, 9), range(1, 11)):
        at = moved(OpSite("fc", shape, (*axes, *free)).at({"g": into, "h": out}))
        assert (found.activations[into, out], found.weights[into, out]) == (at.activations, at.weights)
        if out == 10:
            assert (line.activations[into], line.weights[into]) == (at.activations, at.weights)


def test_an_operator_without_channels_is_there_or_not():
    found = moved_at_counts(OpSite("a", OpShape.parse("op Relu 1x4x2x2 fp32 nchw")), (2,))
    assert np.broadcast_to(found.activations, (2,))[1] == 2 * 4 * 16


def test_weights_get_cold_by_level():
    caches = Caches(l2=100, l3=3200)
    assert caches.cold(0) == caches.cold(100) == (0, 0)
    assert caches.cold(250) == (0.5, 0)
    assert caches.cold(1000) == (1, 0.5)
    assert caches.cold(1600) == caches.cold(1e9) == (1, 1)
    for wrong in ((0, 1), (100, 200), (1, float("nan"))):
        with pytest.raises(InputError):
            Caches(*wrong)
