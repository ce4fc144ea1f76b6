import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.environment import Environment
from latency_model.grid import ChannelGrid, efficient_counts
from latency_model.measurement import Measurement
from latency_model.model import LatencyModel
from latency_model.network import Channels, NetworkCost, Site
from latency_model.service.aligned import aligned, padded, side_steps
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

SHAPE = ConvShape.parse("1x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw")
DEPTHWISE = ConvShape.parse("1x8x8x8 ->8 k3 s1 p1 g8 conv fp32 nchw")


def row(us):
    return Measurement(us, us, us, us, us, us, us, us, 1, "fake", measured_at="2026-01-01T00:00:00+00:00")


def grid_of(points, shape=SHAPE):
    return ChannelGrid.from_rows({shape.with_channels(a, b): row(us) for (a, b), us in points.items()})


@st.composite
def points(draw):
    inputs = draw(st.sets(st.integers(1, 12), min_size=1, max_size=4))
    outputs = draw(st.sets(st.integers(1, 12), min_size=1, max_size=8))
    return {(a, b): draw(st.sampled_from([1.0, 2.0, 2.01, 3.0, 5.0, 8.0])) for a in inputs for b in outputs}


@settings(deadline=None)
@given(points(), st.data())
def test_steps_are_those_of_the_dense_envelope(found, data):
    grid = grid_of(found)
    inputs, outputs = data.draw(st.sampled_from(sorted(found)))
    shape, price = SHAPE.with_channels(inputs, outputs), found[inputs, outputs]
    dense = grid.dense("envelope")
    for side, line, now in (("out", dense[inputs], outputs), ("in", dense[:, outputs], inputs)):
        steps = side_steps(grid, shape, side, price)
        chosen = efficient_counts(line)
        above = min(count for count in chosen if count >= now)
        below = [count for count in chosen if count < now and line[count] < price]
        assert steps["count"] == now
        assert steps["above"] == {
            "count": above, "latency_us": line[above], "saved_us": price - line[above]
        }  # fmt: skip
        if below:
            assert steps["below"]["count"] == max(below)
            assert steps["below"]["saved_us"] == price - line[max(below)] > 0
        else:
            assert steps["below"] is None


@settings(deadline=None)
@given(points(), st.data())
def test_padding_reaches_the_envelope(found, data):
    inputs, outputs = data.draw(st.sampled_from(sorted(found)))
    shape, price = SHAPE.with_channels(inputs, outputs), found[inputs, outputs]
    best = padded(grid_of(found), shape, price)
    assert best["latency_us"] == min(us for (a, b), us in found.items() if a >= inputs and b >= outputs)
    assert found[best["in"], best["out"]] == best["latency_us"]
    assert best["saved_us"] == price - best["latency_us"] >= 0
    if best["saved_us"] == 0:
        assert (best["in"], best["out"]) == (inputs, outputs)


def test_a_depthwise_site_is_a_line():
    grid = grid_of({(8, 8): 2.0, (12, 12): 5.0, (16, 16): 4.0}, DEPTHWISE)
    shape = DEPTHWISE.with_channels(12, 12)
    assert side_steps(grid, shape, "out", 5.0) == side_steps(grid, shape, "in", 5.0)
    assert side_steps(grid, shape, "out", 5.0) == {
        "count": 12,
        "above": {"count": 16, "latency_us": 4.0, "saved_us": 1.0},
        "below": {"count": 8, "latency_us": 2.0, "saved_us": 3.0},
    }
    assert padded(grid, shape, 5.0) == {"in": 16, "out": 16, "latency_us": 4.0, "saved_us": 1.0}


def test_a_network_says_it_by_site():
    other = ConvShape.parse("1x8x4x4 ->8 k1 s1 p0 g1 conv fp32 nchw")
    beyond = SHAPE.with_channels(8, 99)
    rows = {SHAPE.with_channels(8, b): row(us) for b, us in ((6, 1.0), (7, 3.0), (8, 2.0))}
    environment = Environment("d", "cpu", "onnxruntime", "1")
    model = LatencyModel.fit([LatencyTable(environment, rows)])
    shapes = {"a": SHAPE.with_channels(8, 7), "b": other, "c": beyond, "d": SHAPE.with_channels(8, 7)}
    sites = [Site(n, s, Channels(s.in_channels), Channels(s.out_channels)) for n, s in shapes.items()]
    found = aligned(model, NetworkCost("n", tuple(sites)))
    assert found["sites"]["b"] is None and found["sites"]["c"] is None
    assert found["sites"]["a"] == found["sites"]["d"]
    assert found["sites"]["a"]["padded"] == {"in": 8, "out": 8, "latency_us": 2.0, "saved_us": 1.0}
    assert found["padding_saves_us"] == 2.0


@pytest.mark.parametrize("side", ["out", "in"])
def test_a_side_ends_at_the_largest_measured_count(side):
    steps = side_steps(grid_of({(8, 8): 2.0}), SHAPE, side, 2.0)
    assert steps["above"]["count"] == 8 and steps["below"] is None
    assert math.isclose(steps["above"]["saved_us"], 0.0) and np.isfinite(steps["above"]["latency_us"])
