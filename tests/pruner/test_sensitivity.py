import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruner.graph import trace
from pruner.methods.base import Values
from pruner.sensitivity import images_for, measure_losses
from pruner.surgery import remove


class Bottleneck(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.block = Bottleneck(6)
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.block(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


@pytest.fixture
def case():
    torch.manual_seed(0)
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    graph = trace(net, torch.zeros(2, 3, 8, 8))
    rng = np.random.default_rng(0)
    channels = {name: rng.random(group.size) for name, group in graph.groups.items()}
    batches = [(torch.randn(16, 3, 8, 8), torch.randint(0, 5, (16,))) for _ in range(2)]
    return net, graph, channels, batches


def loss_of_cut(net, graph, channels, counts, batches):
    """The oracle: surgery, then the loss with batch norms on the statistics of each batch."""
    keep = {
        name: sorted(np.argsort(-channels[name], kind="stable")[:count]) for name, count in counts.items()
    }
    empty = [block.name for block in graph.blocks if all(counts[group] == 0 for group in block.groups)]
    small = remove(copy.deepcopy(net), graph, keep, blocks=empty).train()
    with torch.no_grad():
        total = sum(F.cross_entropy(small(x), y, reduction="sum").item() for x, y in batches)
    return total / sum(len(y) for _, y in batches)


def test_equals_the_loss_of_the_cut_network(case):
    net, graph, channels, batches = case
    inner = graph.blocks[0].groups
    assert len(inner) == 2
    candidates = {
        name: (*((0,) if name in inner else ()), 1, 2, group.size) for name, group in graph.groups.items()
    }
    found = measure_losses(net, graph, Values(channels), candidates, batches)
    full = graph.sizes()
    for name, counts in candidates.items():
        loss = {}
        for count in counts:
            changed = dict.fromkeys(inner, 0) if count == 0 else {name: count}
            loss[count] = loss_of_cut(net, graph, channels, {**full, **changed}, batches)
        best = np.minimum.accumulate([loss[count] for count in sorted(loss)])
        for count, value in zip(sorted(loss), best, strict=True):
            share = 2 if count == 0 else 1
            assert found[name][count] == pytest.approx((value - best[-1]) / share, abs=1e-5), (name, count)


def test_other_groups_stay_as_the_method_left_them(case):
    net, graph, channels, batches = case
    start = {"conv1": 3}
    candidates = {graph.blocks[0].groups[0]: (2, 4)}
    found = measure_losses(net, graph, Values(channels, start), candidates, batches)
    (name,) = candidates
    loss = {
        n: loss_of_cut(net, graph, channels, {**graph.sizes(), **start, name: n}, batches) for n in (2, 4)
    }
    assert found[name][2] == pytest.approx(loss[2] - min(loss.values()), abs=1e-5)


def test_leaves_the_model_as_it_was(case):
    net, graph, channels, batches = case
    net.train()
    net.bn1.eval()
    before = copy.deepcopy(net.state_dict())
    measure_losses(net, graph, Values(channels), {"conv1": (2, 6)}, batches)
    after = net.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert net.training and not net.bn1.training and net.block.bn2.training
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


@pytest.mark.parametrize(
    ("macs", "images"), [(1e3, 1024), (40e6, 1024), (100e6, 1024), (4e9, 64), (1e12, 64)]
)
def test_images_for_bounds(macs, images):
    assert 64 <= images_for(macs) <= 1024
    assert images_for(macs) == pytest.approx(images, rel=0.7)
