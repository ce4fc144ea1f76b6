import gc
import math
import weakref

import pytest
import torch
from torch import nn

from pruner.gates import Gates, logit
from pruner.graph import trace
from pruner.surgery import remove


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.block1 = Block(8)
        self.block2 = Block(8)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x):
        x = self.block2(self.block1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = Net()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.3)
    return model.eval()


def test_open_gates_change_nothing(net):
    gates = Gates(trace(net, torch.zeros(2, 3, 8, 8))).eval()
    x = torch.randn(4, 3, 8, 8)
    plain = net(x)
    gates.attach(net)
    torch.testing.assert_close(net(x), plain)
    gates.detach()
    assert not net._forward_pre_hooks and not net.block1.bn2._forward_hooks


def test_masked_gates_equal_the_cut_network(net):
    graph = trace(net, torch.zeros(2, 3, 8, 8))
    gates = Gates(graph).eval()
    inner = graph.blocks[0].groups[0]
    keep = {name: list(range(group.size)) for name, group in graph.groups.items()}
    keep["conv1"] = [0, 2, 3, 7]
    keep[inner] = []
    other = graph.blocks[1].groups[0]
    keep[other] = [1, 4, 5]
    for name, kept in keep.items():
        gates.mask_of(name).zero_()[kept] = 1
    x = torch.randn(4, 3, 8, 8)
    small = remove(net, graph, keep, blocks=[graph.blocks[0].name])
    gates.attach(net)
    torch.testing.assert_close(net(x), small(x), rtol=1e-5, atol=1e-5)


def test_one_sample_per_group_image_and_step(net):
    graph = trace(net, torch.zeros(2, 3, 8, 8))
    gates = Gates(graph, initial_keep=0.5).train()
    x = torch.randn(64, 3, 8, 8).abs()
    gates.attach(net)
    seen = {}
    handles = [
        net.get_submodule(point.module).register_forward_hook(
            lambda module, args, out, name=point.module: seen.__setitem__(name, args[0])
        )
        for point in graph.gates
        if point.group == "conv1" and point.module != "fc"
    ]
    torch.manual_seed(3)
    net(x)
    first = dict(gates.last)
    closed = first["conv1"] == 0
    assert 0.3 < closed.float().mean() < 0.7
    assert len(seen) == 2
    for value in seen.values():
        assert (value[closed] == 0).all()
    net(x)
    assert any((gates.last[name] != first[name]).any() for name in first)
    torch.manual_seed(3)
    net(x)
    assert all((gates.last[name] == first[name]).all() for name in first)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("keep", [0.995, 0.9, 0.5])
def test_sampling_rate_and_straight_through_gradient(net, keep):
    """The specification's closed form of the mean slope: 0.01699 at 0.995, 0.1050 at 0.9, 1/6 at 0.5."""
    gates = Gates(trace(net, torch.zeros(2, 3, 8, 8)), initial_keep=keep).train()
    torch.manual_seed(0)
    gates._draw(40_000)
    sample = gates.last["conv1"]
    assert set(sample.detach().unique().tolist()) <= {0.0, 1.0}
    assert sample.mean().item() == pytest.approx(keep, abs=0.01)
    sample.mean(0).sum().backward()
    slope = gates.logit_of("conv1").grad.mean().item()
    expected = {0.995: 0.01699, 0.9: 0.1050, 0.5: 1 / 6}[keep]
    assert slope == pytest.approx(expected, rel=0.03)


def test_masked_channels_get_no_gradient(net):
    gates = Gates(trace(net, torch.zeros(2, 3, 8, 8)), initial_keep=0.9).train()
    gates.mask_of("conv1")[2] = 0
    gates.attach(net)
    net(torch.randn(8, 3, 8, 8)).square().sum().backward()
    grad = gates.logit_of("conv1").grad
    assert grad[2] == 0
    assert (grad[[0, 1, 3, 4, 5, 6, 7]] != 0).all()


def test_logit():
    assert logit(0.995) == pytest.approx(5.2933, abs=1e-4)
    assert logit(0.5) == 0
    assert 1 / (1 + math.exp(-logit(0.2))) == pytest.approx(0.2)


class Stage(nn.Module):
    """A block with a shortcut: two convolutions read the very same tensor."""

    def __init__(self, *, inplace=False):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(8, 8, 1, bias=False)
        self.inplace = inplace
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        y = torch.relu(self.conv1(x))
        if self.inplace:
            x.mul_(2)
        return self.fc((self.conv2(y) + self.shortcut(x)).mean((2, 3)))


def attached(model, *, shared=True):
    torch.manual_seed(1)
    gates = Gates(trace(model, torch.zeros(2, 3, 8, 8)), initial_keep=0.6).train()
    if not shared:
        real = gates._multiplier
        gates._multiplier = lambda group, channels, _: real(group, channels, None)
    gates.attach(model)
    return gates


def inputs_of(model, names):
    seen = {}
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, args, __, name=name: seen.__setitem__(name, args[0]))
    return seen


def test_two_readers_of_one_tensor_share_its_gating():
    torch.manual_seed(0)
    model = Stage()
    results = []
    for shared in (True, False):
        gates = attached(model, shared=shared)
        seen = inputs_of(model, ("conv1", "shortcut", "conv2"))
        torch.manual_seed(2)
        output = model(torch.ones(16, 3, 8, 8))
        assert (seen["conv1"] is seen["shortcut"]) is shared
        assert torch.equal(seen["conv1"], seen["shortcut"])
        assert seen["conv2"] is not seen["conv1"]
        model.zero_grad()
        output.square().sum().backward()
        gradients = [gates.logit_of(name).grad for name in gates.groups]
        results.append([output, *gradients, *(parameter.grad.clone() for parameter in model.parameters())])
        gates.detach()
    assert torch.equal(results[0][0], results[1][0])
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_a_tensor_that_was_written_to_in_between_is_gated_anew():
    torch.manual_seed(0)
    model = Stage(inplace=True)
    for mode in (torch.no_grad, torch.inference_mode):  # inference tensors do not count their versions
        gates = attached(model)
        seen = inputs_of(model, ("conv1", "shortcut"))
        with mode():
            model(torch.randn(4, 3, 8, 8))
            assert torch.equal(seen["shortcut"], 2 * seen["conv1"])
            assert seen["conv1"].any()
        gates.detach()


def test_nothing_gated_outlives_the_forward_pass():
    model = Stage()
    gates = attached(model)
    died = []

    def watch(_, args):
        weakref.finalize(args[0], died.append, True)

    model.shortcut.register_forward_pre_hook(watch)
    with torch.no_grad():
        model(torch.randn(4, 3, 8, 8))
    assert died == [True]
    model.fc.register_forward_pre_hook(lambda *_: 1 / 0)
    with torch.no_grad(), pytest.raises(ZeroDivisionError):
        model(torch.randn(4, 3, 8, 8))
    gc.collect()  # the traceback held the frames
    assert gates._gated is None


def test_images_that_close_a_block_are_looked_for_once(net, monkeypatch):
    """Per image: a closed block adds nothing, the others are as ever."""
    graph = trace(net, torch.zeros(2, 3, 8, 8))
    gates = Gates(graph, initial_keep=0.6).train()
    first, second = (block.groups[0] for block in graph.blocks)
    looks = []
    real = gates._look_for_closed
    monkeypatch.setattr(gates, "_look_for_closed", lambda: looks.append(real()) or looks[-1])
    gates.attach(net)
    with torch.no_grad():
        gates.logit_of(first).fill_(logit(0.1))  # 0.9 ** 8: 43 % of the images close it
        torch.manual_seed(0)
        seen = {}
        net.block1.bn2.register_forward_hook(lambda _, __, out: seen.__setitem__("branch", out))
        net(torch.randn(32, 3, 8, 8))
    closed = gates.last[first].sum(1) == 0
    assert closed.any() and not closed.all()
    assert (gates.last[second].sum(1) > 0).all()
    assert len(looks) == 1 and list(looks[0]) == [graph.blocks[0].name]
    assert torch.equal(looks[0][graph.blocks[0].name], ~closed)
    assert (seen["branch"][closed] == 0).all() and (seen["branch"][~closed] != 0).any(1).any()
