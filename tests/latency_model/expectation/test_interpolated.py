"""Latencies at real counts against interpolation written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.expectation import ExpectedLatency, InterpolatedLatency
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape

SIZES = {"a": 6, "b": 9, "c": 4}
AXES = {
    "plain": (Channels(terms=(("a", 1),)), Channels(terms=(("b", 1),))),
    "image": (Channels(3), Channels(terms=(("a", 1),))),
    "classifier": (Channels(terms=(("b", 1),)), Channels(7)),
    "concat": (Channels(1, (("a", 1), ("c", 1))), Channels(terms=(("b", 1),))),
    "half shared": (Channels(0, (("a", 1), ("b", 1))), Channels(1, (("b", 1),))),
}


def network(names):
    sites = []
    for name in names:
        inputs, outputs = AXES[name]
        sites.append(
            Site(name, ConvShape(1, inputs.count(SIZES), 4, 4, outputs.count(SIZES)), inputs, outputs)
        )
    return NetworkCost("net", tuple(sites), SIZES)


def matrices(net, seed=0):
    rng = np.random.default_rng(seed)
    return {
        s.name: rng.uniform(1, 9, (s.inputs.count(SIZES) + 1, s.outputs.count(SIZES) + 1)) for s in net.sites
    }


def bilinear(matrix, into, out):
    total = 0.0
    for i in (math.floor(into), math.floor(into) + 1):
        for j in (math.floor(out), math.floor(out) + 1):
            weight = (1 - abs(into - i)) * (1 - abs(out - j))
            if weight > 0:
                total += weight * matrix[i, j]
    return total


counts_of = st.fixed_dictionaries({group: st.floats(0, size) for group, size in SIZES.items()})


@given(counts_of)
@settings(max_examples=60, deadline=None)
def test_values_against_bilinear_interpolation(counts):
    net = network(AXES)
    tables = matrices(net)
    expected = 0.0
    for site in net.sites:
        sides = [
            axis.fixed + sum(counts[group] * times for group, times in axis.terms)
            for axis in (site.inputs, site.outputs)
        ]
        expected += bilinear(tables[site.name], *sides)
    given_counts = {group: torch.tensor(count, dtype=torch.float64) for group, count in counts.items()}
    found = InterpolatedLatency(net, tables)(given_counts)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_gradcheck():
    net = network(AXES)
    latency = InterpolatedLatency(net, matrices(net))
    counts = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (2.3, 5.6, 1.45)]
    assert torch.autograd.gradcheck(lambda *values: latency(dict(zip(SIZES, values, strict=True))), counts)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_gradients_at_the_ends_are_those_of_the_cell_inside(corner):
    net = network(["plain"])
    tables = matrices(net)
    counts = {group: torch.tensor(corner * size, requires_grad=True) for group, size in SIZES.items()}
    InterpolatedLatency(net, tables)(counts).backward()
    table = tables["plain"]
    slope = table[-1, -1] - table[-2, -1] if corner else table[1, 0] - table[0, 0]
    assert float(counts["a"].grad) == pytest.approx(slope, rel=1e-6)
    assert counts["a"].grad.dtype == torch.float32
    assert float(counts["c"].grad if counts["c"].grad is not None else 0) == 0


def test_a_real_count_is_whole_gates_and_one_uncertain_gate():
    net = network(["plain", "image", "classifier"])
    tables = matrices(net)
    keep = {
        "a": torch.tensor([1, 1, 0.25, 0, 0, 0]),
        "b": torch.tensor([1.0, 1, 1, 1, 1, 0.6, 0, 0, 0], dtype=torch.float64),
    }
    counts = {group: gates.sum() for group, gates in keep.items()}
    expected = float(ExpectedLatency(net, tables)(keep))
    assert float(InterpolatedLatency(net, tables)(counts)) == pytest.approx(expected, rel=1e-12)


def test_grouped_counts_are_interpolated_between_whole_multiples():
    sizes = {"a": 3}
    four = Channels(terms=(("a", 4),))
    net = NetworkCost("net", (Site("g", ConvShape(1, 12, 4, 4, 12, groups=3), four, Channels(12)),), sizes)
    matrix = np.random.default_rng(0).uniform(1, 9, (13, 13))
    found = InterpolatedLatency(net, {"g": matrix})({"a": torch.tensor(1.25)})
    assert float(found) == pytest.approx(0.75 * matrix[4, 12] + 0.25 * matrix[8, 12])


def test_a_depthwise_line_and_merged_plateaus():
    line = np.array([0.0, 3, 3, 3, 3, 7, 7])
    shape = ConvShape(1, 6, 4, 4, 6, groups=6)
    a = Channels(terms=(("a", 1),))
    net = NetworkCost("net", (Site("dw", shape, a, a),), {"a": 6})
    latency = InterpolatedLatency(net, {"dw": line})
    for count in np.linspace(0, 6, 25):
        found = float(latency({"a": torch.tensor(count)}))
        assert found == pytest.approx(float(np.interp(count, np.arange(7), line)), rel=1e-12)


def test_groups_that_are_not_named_are_whole():
    net = network(AXES)
    tables = matrices(net)
    whole = {group: torch.tensor(float(size)) for group, size in SIZES.items()}
    latency = InterpolatedLatency(net, tables)
    assert float(latency({})) == pytest.approx(float(latency(whole)), rel=1e-15)


@pytest.mark.parametrize("count", [-0.5, 6.01, math.nan])
def test_counts_outside_are_refused(count):
    net = network(["plain"])
    with pytest.raises(InputError, match="channel group a has 0 to 6 channels"):
        InterpolatedLatency(net, matrices(net))({"a": torch.tensor(count)})


def test_mistakes_are_named():
    net = network(["plain"])
    latency = InterpolatedLatency(net, matrices(net))
    with pytest.raises(InputError, match="no channel group 'z'"):
        latency({"z": torch.tensor(1.0)})
    with pytest.raises(InputError, match="is one number"):
        latency({"a": torch.ones(3)})
    with pytest.raises(InputError, match="no latency matrix"):
        InterpolatedLatency(net, {})
