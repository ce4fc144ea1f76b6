"""The expectation against enumeration of all gate states."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.expectation import ExpectedLatency, count_pmf
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape

A, B, D = (Channels(terms=((name, 1),)) for name in "abd")
SIZES = {"a": 4, "b": 3, "d": 5}


def site(name, inputs, outputs, groups=1):
    ins, outs = inputs.count(SIZES), outputs.count(SIZES)
    shape = ConvShape(1, ins, 4, 4, outs, groups=ins if groups > 1 else 1)
    return Site(name, shape, inputs, outputs)


SITES = {
    "plain": (A, B),
    "image": (Channels(3), A),
    "classifier": (B, Channels(6)),
    "fixed": (Channels(2), Channels(2)),
    "concat": (Channels(1, (("a", 1), ("d", 1))), B),
    "twice": (Channels(terms=(("a", 2),)), D),
    "repeated": (Channels(terms=(("b", 1), ("b", 1))), A),
    "loop": (A, A),
    "loop of a concat": (Channels(2, (("a", 1), ("b", 1))), Channels(0, (("a", 1), ("b", 1)))),
    "half shared": (Channels(0, (("a", 1), ("b", 1))), Channels(1, (("a", 2),))),
    "shared and more": (Channels(1, (("a", 1), ("b", 1))), Channels(2, (("a", 1), ("d", 1)))),
}


def network(names):
    return NetworkCost("net", tuple(site(name, *SITES[name]) for name in names), SIZES)


def matrices(net, rng, *, envelope=False):
    found = {}
    for entry in net.sites:
        shape = (entry.inputs.count(SIZES) + 2, entry.outputs.count(SIZES) + 1)
        matrix = rng.uniform(1, 50, shape)
        if envelope:
            matrix = np.maximum.accumulate(np.maximum.accumulate(matrix, 0), 1)
        matrix[0] = matrix[:, 0] = 0
        found[entry.name] = matrix
    return found


def table_value(net, tables, counts):
    total = 0.0
    for entry in net.sites:
        table = tables[entry.name]
        into, out = entry.inputs.count(counts), entry.outputs.count(counts)
        total += table[into] if table.ndim == 1 else table[into, out]
    return total


def brute_force(net, tables, keep):
    groups = list(keep)
    expected = 0.0
    for states in itertools.product((0, 1), repeat=sum(len(keep[g]) for g in groups)):
        weight, counts, place = 1.0, {}, 0
        for group in groups:
            gates = states[place : place + len(keep[group])]
            place += len(gates)
            counts[group] = sum(gates)
            for state, p in zip(gates, keep[group], strict=True):
                weight *= p if state else 1 - p
        expected += weight * table_value(net, tables, counts)
    return expected


@pytest.mark.parametrize("name", SITES)
def test_one_site_against_all_gate_states(name):
    rng = np.random.default_rng(len(name))
    net = network([name])
    tables = matrices(net, rng)
    keep = {group: rng.uniform(0, 1, size) for group, size in SIZES.items()}
    keep["a"][0], keep["b"][1] = 0.0, 1.0
    found = ExpectedLatency(net, tables)({g: torch.tensor(p) for g, p in keep.items()})
    assert float(found) == pytest.approx(brute_force(net, tables, keep), rel=1e-9)


@given(st.sets(st.sampled_from(list(SITES)), min_size=1), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_networks_against_all_gate_states(names, seed):
    rng = np.random.default_rng(seed)
    net = network(sorted(names))
    tables = matrices(net, rng)
    keep = {group: rng.uniform(0, 1, size) for group, size in SIZES.items()}
    found = ExpectedLatency(net, tables)({g: torch.tensor(p, dtype=torch.float32) for g, p in keep.items()})
    keep = {g: p.astype(np.float32).astype(float) for g, p in keep.items()}
    assert float(found) == pytest.approx(brute_force(net, tables, keep), rel=1e-6)


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_closed_and_open_gates_give_the_table(seed):
    rng = np.random.default_rng(seed)
    net = network(list(SITES))
    tables = matrices(net, rng)
    keep = {group: rng.integers(0, 2, size).astype(float) for group, size in SIZES.items()}
    found = ExpectedLatency(net, tables)({g: torch.tensor(p) for g, p in keep.items()})
    counts = {group: int(p.sum()) for group, p in keep.items()}
    assert float(found) == pytest.approx(table_value(net, tables, counts), rel=1e-12)


def test_a_depthwise_site_follows_its_one_count():
    shape = ConvShape(1, 4, 4, 4, 8, groups=4)
    net = NetworkCost("net", (Site("dw", shape, A, Channels(terms=(("a", 2),))),), {"a": 4})
    line = np.array([0.0, 3, 3, 7, 9])
    keep = np.array([0.2, 0.9, 0.5, 1.0])
    found = ExpectedLatency(net, {"dw": line})({"a": torch.tensor(keep)})
    assert float(found) == pytest.approx(brute_force(net, {"dw": line}, {"a": keep}), rel=1e-12)


def test_groups_that_are_not_named_are_whole():
    rng = np.random.default_rng(1)
    net = network(list(SITES))
    tables = matrices(net, rng)
    expected = ExpectedLatency(net, tables)
    assert float(expected({})) == pytest.approx(table_value(net, tables, SIZES), rel=1e-12)
    keep = {"b": np.array([0.3, 0.3, 0.9])}
    whole = {group: np.ones(size) for group, size in SIZES.items()} | keep
    given_one = expected({"b": torch.tensor(keep["b"])})
    assert float(given_one) == pytest.approx(brute_force(net, tables, whole), rel=1e-9)


def test_gradients():
    torch.manual_seed(0)
    net = network(list(SITES))
    expected = ExpectedLatency(net, matrices(net, np.random.default_rng(2)))
    gates = [torch.rand(size, dtype=torch.float64, requires_grad=True) for size in SIZES.values()]

    def call(*values):
        return expected(dict(zip(SIZES, values, strict=True)))

    assert torch.autograd.gradcheck(call, gates)
    edge = [torch.ones(size, dtype=torch.float64, requires_grad=True) for size in SIZES.values()]
    (gradient,) = torch.autograd.grad(call(*edge), edge[:1])
    assert torch.isfinite(gradient).all()


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_envelope_matrices_make_it_monotone(seed):
    rng = np.random.default_rng(seed)
    net = network(list(SITES))
    expected = ExpectedLatency(net, matrices(net, rng, envelope=True))
    gates = {
        group: torch.tensor(rng.uniform(0, 1, size), requires_grad=True) for group, size in SIZES.items()
    }
    expected(gates).backward()
    for gate in gates.values():
        assert (gate.grad >= -1e-9).all()


def test_equal_rows_are_merged_without_a_difference():
    sizes = {"a": 64, "b": 48}
    shape = ConvShape(1, 64, 4, 4, 48)
    net = NetworkCost("net", (Site("s", shape, A, B),), sizes)
    rng = np.random.default_rng(3)
    steps = np.cumsum(rng.uniform(1, 9, (9, 7)), 0)
    matrix = steps[np.ix_(-(-np.arange(65) // 8), -(-np.arange(49) // 8))]
    matrix[0] = matrix[:, 0] = 0
    keep = {group: torch.tensor(rng.uniform(0, 1, size)) for group, size in sizes.items()}
    expected = ExpectedLatency(net, {"s": matrix})
    assert expected._sites[0][2].shape == (9, 7)
    into, out = (count_pmf(keep[group]).numpy() for group in "ab")
    assert float(expected(keep)) == pytest.approx(into @ matrix @ out, rel=1e-12)


def test_mistakes_are_named():
    net = network(["plain"])
    tables = matrices(net, np.random.default_rng(0))
    expected = ExpectedLatency(net, tables)
    with pytest.raises(InputError, match="no channel group 'z'"):
        expected({"z": torch.ones(3)})
    with pytest.raises(InputError, match="group a has 4 channels"):
        expected({"a": torch.ones(3)})
    with pytest.raises(InputError, match="from 0 to 1"):
        expected({"a": torch.full((4,), 2.0)})
    with pytest.raises(InputError, match="no latency matrix for the site plain"):
        ExpectedLatency(net, {})
    with pytest.raises(InputError, match="must reach the counts"):
        ExpectedLatency(net, {"plain": tables["plain"][:3]})
