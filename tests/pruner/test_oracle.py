"""The oracle must fail when surgery is wrong."""

import pytest
import torch
from torch import nn

import pruner.oracle
from pruner.graph import trace
from pruner.oracle import check
from pruner.plan import Plan
from pruner.surgery import remove

X = torch.randn(2, 3, 8, 8)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.norm = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6)

    def forward(self, x):
        return x + self.norm(self.conv2(self.conv1(x).relu()))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), Residual(), nn.Conv2d(6, 4, 1))
    return model, trace(model, X)


def test_agrees_with_right_surgery(net):
    model, graph = net
    result = check(model, graph, {"0": [0, 4], "2.conv1": [2]}, inputs=X)
    assert result.ok and result.max_relative_error < 1e-6 and result.outputs == 1


def test_sees_a_wrong_channel(net, monkeypatch):
    model, graph = net

    def wrong(model, graph, keep, *, blocks=()):
        shifted = {
            name: [(i + 1) % graph.groups[name].size for i in indices] for name, indices in keep.items()
        }
        return remove(model, graph, shifted, blocks=blocks)

    monkeypatch.setattr(pruner.oracle, "remove", wrong)
    assert not check(model, graph, {"0": [0, 4]}, inputs=X).ok


def test_sees_a_forgotten_shift(net, monkeypatch):
    model, graph = net

    def wrong(model, graph, keep, *, blocks=()):
        full = remove(model, graph, keep)
        for name in blocks:
            # the branch is dead, but the shift of its last norm is left in
            nn.init.zeros_(full.get_submodule(name).norm.weight)
        return full

    monkeypatch.setattr(pruner.oracle, "remove", wrong)
    assert not check(model, graph, {}, ["2"], inputs=X).ok


def test_a_different_shape_or_a_nan_is_a_failure(net, monkeypatch):
    model, graph = net
    for bad in (nn.Conv2d(3, 5, 3), nn.Conv2d(3, 4, 3)):
        nn.init.constant_(bad.weight, float("nan"))
        monkeypatch.setattr(pruner.oracle, "remove", lambda *_, bad=bad, **__: bad)
        assert check(model, graph, {}, inputs=X).max_relative_error == float("inf")


def test_the_model_is_not_changed(net):
    model, graph = net
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(model, graph, {"0": [1]}, ["2"], inputs=X)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model[2].norm._forward_hooks


def test_sees_a_wrong_branch_behind_a_scale_that_starts_near_zero(monkeypatch):
    class Scaled(Residual):
        def __init__(self):
            super().__init__()
            self.gamma = nn.Parameter(torch.full((6, 1, 1), 1e-6))

        def forward(self, x):
            return x + self.gamma * self.conv2(self.conv1(x).relu())

    model = nn.Sequential(nn.Conv2d(3, 6, 3), Scaled(), nn.Conv2d(6, 4, 1))
    graph = trace(model, X)
    assert check(model, graph, {"1.conv1": [0, 2]}, inputs=X).ok

    def wrong(model, graph, keep, *, blocks=()):
        return remove(model, graph, {**keep, "1.conv1": [1, 3]}, blocks=blocks)

    monkeypatch.setattr(pruner.oracle, "remove", wrong)
    assert not check(model, graph, {"1.conv1": [0, 2]}, inputs=X).ok


def test_takes_a_whole_plan(net, monkeypatch):
    model, graph = net
    plan = Plan(graph.fingerprint, {"0": (1, 2)}, blocks=("2",))
    assert check(model, graph, plan, inputs=X).ok
    seen = []

    def noted(model, graph, keep, *, blocks=()):
        seen.append((keep["0"], tuple(blocks)))
        return remove(model, graph, keep, blocks=blocks)

    monkeypatch.setattr(pruner.oracle, "remove", noted)
    check(model, graph, plan, inputs=X)
    assert seen == [((0, 3, 4, 5), ("2",))]
