"""Weights that take over: what least squares says, and what it must not touch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from pruner.compensation import compensate
from pruner.graph import trace
from pruner.surgery import remove
from pruner.testing import NETWORKS, images, setting_of


def batches(shape, *, count=64, seed=0):
    drawn = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return [(half, torch.zeros(len(half), dtype=torch.int64)) for half in drawn.split(count // 2)]


def plain(*, bias, norm=False, **options):
    """Two convolutions, the first of which loses channels, in double precision."""
    torch.manual_seed(0)
    between = [nn.BatchNorm2d(5)] if norm else []
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 5, 3, bias=bias, **options),
        *between,
        nn.ReLU(),
        nn.Conv2d(5, 2, 1),
    ).double()
    if norm:
        model[3].running_mean.uniform_(-1, 1)
        model[3].running_var.uniform_(0.5, 2)
    return model.eval(), trace(model, torch.zeros(2, 3, 9, 9).double())


def double(data):
    return [(one.double(), labels) for one, labels in data]


def taps_of(model, layer, data):
    seen = []
    handle = model[layer].register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        for one, _ in data:
            model(one)
    handle.remove()
    return torch.cat([x for x, _ in seen]), torch.cat([y for _, y in seen])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": 1},
        {"padding": "same"},
        {"stride": 2, "dilation": 2},
        {"padding": 1, "padding_mode": "circular"},
    ],
)
def test_the_weights_are_those_of_least_squares_with_an_intercept(options):
    model, graph = plain(bias=True, **options)
    keep, data = {"0": [1, 2, 4, 7]}, double(batches((3, 9, 9)))
    small = remove(model, graph, keep)
    compensate(small, model, graph, keep, data, ridge=0.0)
    _, wanted = taps_of(model, 2, data)
    inputs, found = taps_of(small, 2, data)
    # By hand: every tap is one more input of a linear regression.
    probe = copy.deepcopy(small[2])
    columns = []
    for tap in range(probe.weight[0].numel()):
        with torch.no_grad():
            probe.weight.zero_()
            probe.bias.zero_()
            probe.weight.view(5, -1)[:, tap] = 1
            columns.append(probe(inputs)[:, 0].flatten())
    design = torch.stack([*columns, torch.ones_like(columns[0])], 1)
    target = wanted.transpose(0, 1).flatten(1).T
    solution = torch.linalg.lstsq(design, target).solution
    assert torch.allclose(found.transpose(0, 1).flatten(1).T, design @ solution, atol=1e-9)


def test_where_nothing_went_nothing_changes():
    model, graph = plain(bias=True)
    small = copy.deepcopy(model)
    assert compensate(small, model, graph, {}, double(batches((3, 9, 9)))) == {}
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, True), (False, False)])
def test_a_twin_takes_over_all_of_what_its_twin_did(bias, norm):
    model, graph = plain(bias=bias, norm=norm)
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[3] = tensor[6]
    keep, data = {"0": [0, 1, 2, 4, 5, 6, 7]}, double(batches((3, 9, 9)))
    small = remove(model, graph, keep)
    compensate(small, model, graph, keep, data, ridge=1e-12)
    fresh = torch.randn(4, 3, 9, 9).double()
    assert torch.allclose(small(fresh), model(fresh), atol=1e-6)


def test_a_channel_that_never_varies_goes_into_the_bias():
    model, graph = plain(bias=True)
    with torch.no_grad():
        model[0].weight[3] = 0
        model[0].bias[3] = 2.5
    keep, data = {"0": [0, 1, 2, 4, 5, 6, 7]}, double(batches((3, 9, 9)))
    small = remove(model, graph, keep)
    assert not torch.allclose(small(data[0][0]), model(data[0][0]), atol=1e-2)
    missing = compensate(small, model, graph, keep, data)
    assert torch.allclose(small(data[0][0]), model(data[0][0]), atol=1e-6)
    assert max(missing.values()) < 1e-10


def test_mean_and_variance_behind_a_norm_are_what_they_were():
    model, graph = plain(bias=False, norm=True)
    keep, data = {"0": [1, 2, 4]}, double(batches((3, 9, 9), count=256))
    small, gentle = remove(model, graph, keep), remove(model, graph, keep)
    compensate(small, model, graph, keep, data)
    compensate(gentle, model, graph, keep, data, rescale=False)
    found, other, wanted = (taps_of(net, 3, data)[1] for net in (small, gentle, model))
    dims = (0, 2, 3)
    for normed in (found, other):
        assert torch.allclose(normed.mean(dims), wanted.mean(dims), atol=1e-6)
    assert torch.allclose(found.var(dims), wanted.var(dims), rtol=1e-3)
    assert (other.var(dims) < wanted.var(dims)).all()
    # The mean square is least where the variance is left as it comes.
    assert ((other - wanted) ** 2).mean() <= ((found - wanted) ** 2).mean()


def test_the_share_that_is_missing_is_what_is_left_of_the_variance():
    model, graph = plain(bias=True)
    keep, data = {"0": [1, 2, 4]}, double(batches((3, 9, 9)))
    small = remove(model, graph, keep)
    missing = compensate(small, model, graph, keep, data, ridge=0.0)
    _, wanted = taps_of(model, 2, data)
    _, found = taps_of(small, 2, data)
    left = ((found - wanted) ** 2).sum() / ((wanted - wanted.mean((0, 2, 3), keepdim=True)) ** 2).sum()
    assert missing["2"] == pytest.approx(float(left), rel=1e-6)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_outputs_come_nearer_on_every_kind_of_network(network):
    setting = setting_of(network, trained=2)
    model, graph = setting.module, setting.graph
    random = np.random.default_rng(0)
    keep = {
        name: sorted(random.choice(size, max(1, 3 * size // 4), replace=False))
        for name, size in graph.sizes().items()
    }
    data = list(images().train.batches(32, shuffle=False, augment=False, seed=0, epoch=0))
    small = remove(model, graph, keep)
    state = torch.get_rng_state()
    before = [error(small, model, part) for part in data]
    missing = compensate(small, model, graph, keep, data)
    assert sum(error(small, model, part) for part in data) < 0.7 * sum(before)
    assert all(0 <= share < 1 for share in missing.values())
    assert torch.equal(torch.get_rng_state(), state)
    again = remove(model, graph, keep)
    compensate(again, model, graph, keep, data)
    assert all(
        torch.equal(a, b)
        for a, b in zip(small.state_dict().values(), again.state_dict().values(), strict=True)
    )


def error(small, model, part):
    with torch.no_grad():
        return float(((small(part[0]) - model(part[0])) ** 2).mean())
