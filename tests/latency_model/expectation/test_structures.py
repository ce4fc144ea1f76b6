"""Random small networks with every kind of sharing, against enumeration of all gate states."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.expectation import ExpectedLatency, InterpolatedLatency, smoothed
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape

KINDS = ("plain", "image", "classifier", "grouped", "depthwise", "concat", "residual", "loop", "half shared")


def axis(*terms, fixed=0):
    return Channels(fixed, terms)


@st.composite
def networks(draw):
    """Return a network of up to 14 gates, its matrices, and the seed of its probabilities."""
    sizes = {name: draw(st.integers(1, 4)) for name in "abcd"[: draw(st.integers(2, 4))]}
    while sum(sizes.values()) > 14:
        sizes.popitem()
    names = list(sizes)
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    sites, matrices = [], {}
    for number, kind in enumerate(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=6))):
        one, two = (names[i] for i in rng.permutation(len(names))[:2])
        many = int(rng.integers(2, 4))
        inputs, outputs = {
            "plain": (axis((one, 1)), axis((two, 1))),
            "image": (axis(fixed=3), axis((one, 1))),
            "classifier": (axis((one, 1)), axis(fixed=5)),
            "grouped": (axis((one, many)), axis((two, many))),
            "depthwise": (axis((one, 1)), axis((one, 2))),
            "concat": (axis((one, 1), (two, many), fixed=1), axis((names[-1], 1))),
            "residual": (axis((one, 1)), axis((one, 1))),
            "loop": (axis((one, 2), (two, 1)), axis((one, 2), (two, 1), fixed=2)),
            "half shared": (axis((one, 1), (two, 1)), axis((two, 1))),
        }[kind]
        full = inputs.count(sizes), outputs.count(sizes)
        groups = full[0] if kind == "depthwise" else 1
        name = f"{number} {kind}"
        sites.append(Site(name, ConvShape(1, full[0], 4, 4, full[1], groups=groups), inputs, outputs))
        shape = full[:1] if kind == "depthwise" else full
        matrix = rng.uniform(1, 50, [size + 1 for size in shape])
        for side in range(matrix.ndim):
            matrix = np.maximum.accumulate(matrix, side)
            np.moveaxis(matrix, side, 0)[0] = 0
        matrices[name] = matrix
    keep = {name: rng.choice([0, 1, *rng.uniform(0, 1, 4)], size) for name, size in sizes.items()}
    return NetworkCost("net", tuple(sites), sizes), matrices, keep


def table_value(net, matrices, counts):
    total = 0.0
    for site in net.sites:
        matrix = matrices[site.name]
        place = (site.inputs.count(counts), site.outputs.count(counts))
        total += matrix[place[: matrix.ndim]]
    return total


def brute_force(net, matrices, keep):
    gates = [(group, p) for group, ps in keep.items() for p in ps]
    expected = 0.0
    for states in itertools.product((0, 1), repeat=len(gates)):
        weight, counts = 1.0, dict.fromkeys(keep, 0)
        for state, (group, p) in zip(states, gates, strict=True):
            weight *= p if state else 1 - p
            counts[group] += state
        if weight:
            expected += weight * table_value(net, matrices, counts)
    return expected


def tensors(keep, **options):
    return {group: torch.tensor(p, **options) for group, p in keep.items()}


@given(networks())
@settings(max_examples=40, deadline=None)
def test_expectations_against_all_gate_states(given_network):
    net, matrices, keep = given_network
    truth = brute_force(net, matrices, keep)
    assert float(ExpectedLatency(net, matrices)(tensors(keep))) == pytest.approx(truth, rel=1e-10, abs=1e-12)
    fast = float(ExpectedLatency(net, matrices, mode="fast")(tensors(keep)))
    assert fast == pytest.approx(truth, rel=0.02, abs=1e-4)


@given(networks(), st.sampled_from(["exact", "fast"]))
@settings(max_examples=40, deadline=None)
def test_certain_gates_give_the_table(given_network, mode):
    net, matrices, keep = given_network
    keep = {group: np.round(p) for group, p in keep.items()}
    counts = {group: int(p.sum()) for group, p in keep.items()}
    found = float(ExpectedLatency(net, matrices, mode=mode)(tensors(keep)))
    rel = 1e-12 if mode == "exact" else 1e-5
    assert found == pytest.approx(table_value(net, matrices, counts), rel=rel, abs=rel)
    counted = {group: torch.tensor(float(count)) for group, count in counts.items()}
    found = float(InterpolatedLatency(net, matrices)(counted))
    assert found == pytest.approx(table_value(net, matrices, counts), rel=1e-12)


@given(networks())
@settings(max_examples=40, deadline=None)
def test_envelopes_are_monotone_in_every_gate(given_network):
    net, matrices, keep = given_network
    gates = tensors(keep, requires_grad=True)
    ExpectedLatency(net, matrices)(gates).backward()
    for gate in gates.values():
        assert gate.grad is None or (gate.grad >= -1e-9).all()


@given(networks())
@settings(max_examples=15, deadline=None)
def test_gradients_are_slopes(given_network):
    net, matrices, keep = given_network
    # The expectation is linear in each gate: two points give its slope, to rounding.
    gates = tensors(keep, requires_grad=True)
    latency = ExpectedLatency(net, matrices)
    latency(gates).backward()
    for group, gate in gates.items():
        for place in range(len(keep[group])):
            ends = []
            for p in (0.0, 1.0):
                moved = {name: values.copy() for name, values in keep.items()}
                moved[group][place] = p
                ends.append(float(latency(tensors(moved))))
            slope = 0.0 if gate.grad is None else float(gate.grad[place])
            assert slope == pytest.approx(ends[1] - ends[0], rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("mode", ["exact", "fast"])
@given(networks())
@settings(max_examples=5, deadline=None)
def test_gradcheck_of_expectations(mode, given_network):
    net, matrices, keep = given_network
    latency = ExpectedLatency(net, matrices, mode=mode)
    gates = [0.1 + 0.8 * torch.tensor(p) for p in keep.values()]
    for gate in gates:
        gate.requires_grad_()

    def call(*values):
        return latency(dict(zip(keep, values, strict=True)))

    # The fast mode computes in float32, so its differences need a longer step.
    tolerance = {"exact": {}, "fast": {"eps": 1e-2, "atol": 0.05, "rtol": 0.02}}[mode]
    if call(*gates).requires_grad:
        assert torch.autograd.gradcheck(call, gates, **tolerance)


@given(networks(), st.floats(0, 5))
@settings(max_examples=10, deadline=None)
def test_smoothed_matrices_serve_both(given_network, width):
    net, matrices, keep = given_network
    soft = smoothed(matrices, width)
    truth = brute_force(net, soft, keep)
    assert float(ExpectedLatency(net, soft)(tensors(keep))) == pytest.approx(truth, rel=1e-9, abs=1e-12)
    counts = {group: torch.tensor(0.7 * len(p)) for group, p in keep.items()}
    assert torch.isfinite(InterpolatedLatency(net, soft)(counts))
