"""Prices of operators: exact where measured, a line between, and the same sums in every consumer."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.expectation import ExpectedLatency
from latency_model.harvest import harvest
from latency_model.model import LatencyModel
from latency_model.network import Axis, Channels, NetworkCost, OpSite, Site
from latency_model.op_price import OpPrices
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel, load_model
from pruner.allocate import allocate
from pruner.cost import latency_cost


def group(name, times=1):
    return Channels(terms=((name, times),))


POOL = OpSite(
    "pool", OpShape.parse("op MaxPool 1x32x8x8 kernel_shape=2,2 fp32 nchw"), (Axis(0, 1, group("b")),)
)
JOIN = OpSite(
    "join",
    OpShape.parse("op Concat 1x16x8x8 1x32x8x8 axis=1 fp32 nchw"),
    (Axis(0, 1, group("a")), Axis(1, 1, group("b"))),
)
LINEAR = OpSite(
    "fc",
    OpShape.parse("op Gemm 1x128 w10x128 w10 fp32 nchw"),
    (
        Axis(0, 1, group("b", 4)),
        Axis(1, 1, group("b", 4)),
        Axis(1, 0, group("c"), side="out"),
        Axis(2, 0, group("c"), side="out"),
    ),
)
GROUPS = {"a": 16, "b": 32, "c": 10}


def test_a_site_follows_its_groups():
    assert POOL.at({"b": 8}).inputs == ((1, 8, 8, 8),)
    assert POOL.at({"b": 0}) is None
    assert JOIN.at({"a": 0, "b": 8}).inputs == ((1, 8, 8, 8),)
    assert JOIN.at({"a": 0, "b": 0}) is None
    assert JOIN.inputs.count(GROUPS) == 48
    assert (LINEAR.inputs, LINEAR.outputs) == (group("b", 4), group("c"))
    assert LINEAR.at({"b": 2, "c": 5}).text == "op Gemm 1x8 w5x8 w5 fp32 nchw"


@given(st.integers(1, 16), st.integers(1, 32), st.integers(1, 10))
def test_elements_are_those_of_the_shape(a, b, c):
    counts = {"a": a, "b": b, "c": c}
    for site in (POOL, JOIN, LINEAR):
        shape = site.at(counts)
        brute = sum(int(np.prod(size)) for size in (*shape.inputs, *shape.weights))
        assert site.elements(site.inputs.count(counts), site.outputs.count(counts)) == brute


def rows(synthetic, site, counts, formula):
    shapes = [site.at(c) for c in counts]
    return {shape: synthetic.measurement(formula(shape)) for shape in shapes}


def cost(shape):
    """A line over the numbers read, with a kink."""
    read = sum(int(np.prod(size)) for size in (*shape.inputs, *shape.weights))
    return 1.0 + read / 100 + max(0, read - 1000) / 50


def test_between_measured_sizes_the_price_is_on_a_line(synthetic):
    ops = rows(synthetic, POOL, [{"b": 8}, {"b": 16}, {"b": 32}], cost)
    prices = OpPrices(ops)
    at = lambda b: prices.at(POOL, POOL.at({"b": b}))  # noqa: E731
    assert (at(16).latency_us, at(16).source) == (cost(POOL.at({"b": 16})), "measured")
    assert at(12).latency_us == pytest.approx((at(8).latency_us + at(16).latency_us) / 2)
    assert at(12).source == "interpolated"
    assert at(3).latency_us == at(8).latency_us
    wider = dataclasses.replace(POOL.shape, inputs=((1, 64, 8, 8),))
    assert prices.at(POOL, wider) is None
    other = dataclasses.replace(POOL, shape=dataclasses.replace(POOL.shape, inputs=((1, 32, 9, 8),)))
    assert prices.curve(other) is None


def test_a_matrix_has_the_prices_of_all_counts(synthetic):
    for site, steps in ((POOL, ["b"]), (LINEAR, ["b", "c"]), (JOIN, ["a", "b"])):
        shares = [{g: max(1, GROUPS[g] * k // 4) for g in GROUPS} for k in (1, 2, 3, 4)]
        prices = OpPrices(rows(synthetic, site, shares, cost))
        raw, envelope = (prices.matrix(site, GROUPS, raw=raw) for raw in (True, False))
        for counts in itertools.product(*[range(GROUPS[g] + 1) for g in steps]):
            at = {**GROUPS, **dict(zip(steps, counts, strict=True))}
            shape = site.at(at)
            index = (site.inputs.count(at), site.outputs.count(at))[: raw.ndim]
            expected = 0.0 if shape is None else prices.at(site, shape).latency_us
            assert raw[index] == pytest.approx(expected, rel=0.05)  # a measured size may differ in its groups
            assert envelope[index] <= raw[index]
        assert (np.diff(envelope, axis=0) >= 0).all()


def network(*ops):
    sites = (
        Site("one", ConvShape(1, 3, 8, 8, 16), Channels(3), group("a")),
        Site("two", ConvShape(1, 16, 8, 8, 32), group("a"), group("b")),
    )
    return NetworkCost("net", sites, GROUPS, {}, ops)


@pytest.fixture
def model(synthetic):
    table = synthetic.table_of(network())
    ops = {}
    for site in (POOL, JOIN):
        ops |= rows(synthetic, site, [{"a": 2 * k, "b": 4 * k} for k in range(1, 9)], cost)
    return LatencyModel.fit([dataclasses.replace(table, ops=ops)])


@pytest.mark.parametrize(("a", "b"), list(itertools.product((8, 16), (8, 16, 24, 32))))
def test_estimate_expectation_and_cost_agree(model, a, b):
    net = network(POOL, JOIN, LINEAR)
    counts = {"a": a, "b": b, "c": 10}
    estimate = model.estimate(net, counts)
    assert estimate.unpriced == {"Gemm": 1}
    convolutions = sum(site.latency_us for site in estimate.sites)
    assert estimate.raw_sum_us == pytest.approx(convolutions + sum(op.latency_us for op in estimate.ops))
    matrices = model.matrices(net)
    assert set(matrices) == {"one", "two", "pool", "join"}
    keep = {g: torch.zeros(GROUPS[g]) for g in ("a", "b")}
    for g in keep:
        keep[g][: counts[g]] = 1.0
    assert float(ExpectedLatency(net, matrices)(keep)) == pytest.approx(estimate.raw_sum_us)
    assert latency_cost(model, net).value(counts) == pytest.approx(estimate.latency_us)


def test_an_estimate_says_what_it_interpolates(model):
    said = model.estimate(network(POOL), {"b": 30}).flags
    assert "interpolated between measured sizes (1 of 1 other operators)" in said


def test_the_programme_prices_operators(model):
    cost_with, cost_without = (latency_cost(model, network(*ops)) for ops in ((POOL,), ()))
    channels = {g: np.arange(1.0, size + 1) for g, size in GROUPS.items()}
    limit = 0.8 * cost_with.full
    found = allocate([(cost_with, limit)], channels, {}, floors={})
    assert found.costs[0] == pytest.approx(cost_with.value(found.counts))
    assert found.costs[0] <= limit
    assert cost_with.value(found.counts) > cost_without.value(found.counts)


def test_networks_without_a_list_of_operators_are_left_out_of_the_fit(synthetic, model):
    table = synthetic.table_of(network(), whole=lambda total: 2 * total)
    fitted = LatencyModel.fit([dataclasses.replace(table, ops=model.table.ops)])
    assert fitted.correction.networks == 0
    assert "timed without a list of its other operators" in fitted.notes[0]
    (row,) = table.networks
    listed = dataclasses.replace(row, shapes=(*row.shapes, POOL.shape))
    fitted = LatencyModel.fit([dataclasses.replace(table, ops=model.table.ops, networks=(listed,))])
    assert fitted.correction.networks == 1


def test_changes_of_layout_belong_to_onnx_runtime_on_a_cpu(synthetic):
    reorder = OpSite("ReorderOutput:x", OpShape.parse("op ReorderOutput 1x32x8x8 fp32 nchw"))
    net = dataclasses.replace(network(), reorders=(reorder,))
    table = synthetic.table_of(network())
    assert dict(LatencyModel.fit([table]).estimate(net).unpriced) == {}
    ours = Environment("CPU", "cpu", "onnxruntime", "1")
    table = LatencyTable(ours, table.rows)
    assert dict(LatencyModel.fit([table]).estimate(net).unpriced) == {"ReorderOutput": 1}
    table = LatencyTable(ours, table.rows, ops={reorder.shape: synthetic.measurement(5.0)})
    estimate = LatencyModel.fit([table]).estimate(net)
    assert [op.latency_us for op in estimate.ops] == [5.0]


def test_networks_with_operators_survive_a_file(synthetic, model, tmp_path):
    table = synthetic.table_of(network(), whole=lambda total: 2 * total)
    (row,) = table.networks
    listed = dataclasses.replace(row, shapes=(*row.shapes, POOL.shape))
    table = dataclasses.replace(table, ops=model.table.ops, networks=(listed,))
    table.save(tmp_path / "t.parquet")
    assert LatencyTable.load(tmp_path / "t.parquet") == table


def test_operators_follow_regrouped_convolutions():
    net = harvest(load_model("digits_resnet"), batch=1)
    mean, linear = net.ops
    ((producer, times),) = mean.axes[0].channels.terms
    assert times == 1
    name = producer.removesuffix(".out")
    shape = next(site.shape for site in net.sites if site.name == name)
    moved = net.regroup({name: (Channels(shape.in_channels), group("stage"))}, {"stage": shape.out_channels})
    assert {op.axes[0].channels for op in moved.ops} == {group("stage")}
    at = {op.name: found.text for op, found in moved.op_shapes({"stage": 8})}
    assert at[linear.name] == "op Gemm 1x8 w10x8 w10 fp32 nchw"
    with pytest.raises(InputError, match="its channel groups have 7"):
        net.regroup({linear.name: (Channels(7), Channels(10))}, {})


def test_a_flat_tensor_has_a_channel_for_each_pixel():
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 5), torch.nn.ReLU()
    )
    (linear,) = harvest(LoadedModel("flat", module, (3, 8, 8)), batch=1).ops
    assert linear.inputs == group("0.out", 36)
    assert linear.at({"0.out": 2}).text == "op Gemm 1x72 w5x72 w5 activation=relu fp32 nchw"
