import copy

import numpy as np
import pytest
import torch
from torch import nn

from latency_model.errors import InputError
from latency_model.harvest import harvest
from latency_model.model import LatencyModel
from pruner.cost import latency_cost, macs_cost, params_cost
from pruner.graph import trace
from pruner.surgery import remove


@pytest.fixture
def net(kit):
    loaded = kit.loaded
    graph = trace(loaded.module, torch.zeros(2, *loaded.input_shape))
    network = harvest(loaded, batch=2).regroup(graph.axes(), {n: g.size for n, g in graph.groups.items()})
    return loaded, graph, network


def brute_force(module, input_shape, *, batch):
    """Count multiply-accumulates and weights of the convolutions of ``module`` by running it."""
    module, macs, weights = copy.deepcopy(module), [], []

    def hook(conv, args, output):
        macs.append(output.numel() * conv.weight[0].numel())
        weights.append(conv.weight.numel())

    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(hook)
    with torch.no_grad():
        module(torch.zeros(batch, *input_shape))
    return sum(macs), sum(weights)


def random_keep(graph, rng, *, removed=()):
    inside = {group for name in removed for group in graph.block(name).groups}
    return {
        name: ()
        if name in inside
        else tuple(sorted(rng.choice(group.size, rng.integers(1, group.size + 1), replace=False).tolist()))
        for name, group in graph.groups.items()
    }


@pytest.mark.parametrize("seed", range(12))
def test_macs_and_params_equal_a_count_on_the_cut_modules(net, seed):
    loaded, graph, network = net
    assert {"depthwise", "conv"} <= {site.kind for site in graph.sites}
    removed = [graph.blocks[0].name] if seed % 3 == 0 else []
    keep = random_keep(graph, np.random.default_rng(seed), removed=removed)
    counts = {name: len(kept) for name, kept in keep.items()}
    small = remove(loaded.module, graph, keep, blocks=removed)
    macs, weights = brute_force(small, loaded.input_shape, batch=2)
    assert macs_cost(network).value(counts) == pytest.approx(macs, rel=1e-12)
    assert params_cost(network).value(counts) == pytest.approx(weights, rel=1e-12)


def test_the_full_cost_is_that_of_the_network_as_it_is(net):
    loaded, _, network = net
    macs, weights = brute_force(loaded.module, loaded.input_shape, batch=2)
    assert (macs_cost(network).full, params_cost(network).full) == (macs, weights)
    assert macs_cost(network).value({}) == macs
    with pytest.raises(InputError, match="no channel group"):
        macs_cost(network).value({"nothing": 1})


@pytest.mark.parametrize("seed", range(5))
def test_latency_at_measured_counts_is_rows_and_correction(kit, net, seed):
    _, graph, network = net
    table = kit.table(batches=(1, 2), step=4, whole=1.3)
    model = LatencyModel.fit([table])
    cost = latency_cost(model, network)
    assert model.correction.networks == 2
    rng = np.random.default_rng(seed)
    counts = {
        name: int(rng.choice([*range(4, group.size, 4), group.size])) for name, group in graph.groups.items()
    }
    if seed == 0:
        counts = dict(network.groups)
    rows = sum(table[shape].latency_us for _, shape in network.shapes(counts))
    assert cost.value(counts) == pytest.approx(model.correction.apply(rows))
    assert cost.value(counts) == pytest.approx(model.estimate(network, counts).latency_us)
    if seed == 0:
        assert cost.full == pytest.approx(table.networks[1].measurement.latency_us, rel=0.05)


def test_latency_between_counts_is_that_of_the_next_measured_ones(kit, net):
    _, _, network = net
    cost = latency_cost(LatencyModel.fit([kit.table(batches=(2,), step=4)]), network)
    # A convolution of 9 of 20 channels runs as one of 12.
    assert cost.value({"last": 9}) == pytest.approx(cost.value({"last": 12}))
    assert cost.value({"last": 8}) < cost.value({"last": 9})
    assert cost.value({"branch.conv1": 0}) < cost.value({"branch.conv1": 1})


def test_sites_and_correction_add_up(kit, net):
    _, _, network = net
    cost = latency_cost(LatencyModel.fit([kit.table(batches=(1, 2), whole=1.2)]), network)
    counts = network.counts({"last": 7})
    parts = sum(cost.site_value(site, counts) for site in network.sites)
    assert cost.value(counts) == pytest.approx(parts + cost.constant)
