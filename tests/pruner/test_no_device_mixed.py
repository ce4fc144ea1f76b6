"""Nothing of Gator's step mixes devices: shown without a GPU, on tensors that know their device and hold no data.

PyTorch's fake tensors say to be on a GPU and raise where devices meet (but not in its "foreach" operations); they
cannot run backward without one, which the meta device can. What reads numbers stops there: it is answered by hand.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)

from latency_model import ConvShape, NetworkCost, Site
from pruner.budget import Budget
from pruner.cost import macs_cost
from pruner.data.split import MemorySource, Split, Splits
from pruner.gates import Gates
from pruner.graph import trace
from pruner.methods import Problem, Values, open_method
from pruner.methods import gating as gating_module
from pruner.methods.gating import Gating, fall_work
from pruner.methods.gator import GatorConfig
from pruner.sensitivity import measure_losses
from pruner.training import Step

GPU = torch.device("cuda", 0)
# What PyTorch says of it, from 2.11 on.
MIXED = "on the same device|two different devices"
# A build for the CPU alone aborts in a convolution of such tensors; the meta device takes its place there.
cuda_build = pytest.mark.skipif(torch.version.cuda is None, reason="torch is built without CUDA")


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(6, 5, 3, padding=1)
        self.conv2 = nn.Conv2d(5, 6, 3, padding=1, bias=False)
        self.tail = nn.BatchNorm2d(6)

    def forward(self, x):
        return torch.relu(x + self.tail(self.conv2(torch.relu(self.conv1(x)))))


class Net(nn.Module):
    """A block, two readers of one tensor, and a reader of several positions for each channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.block = Block()
        self.conv3 = nn.Conv2d(6, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(6, 4, 1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.block(torch.relu(self.norm(self.stem(x))))
        x = torch.relu(self.conv3(x) + self.shortcut(x))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def graph():
    graph = trace(Net().eval(), torch.zeros(2, 1, 6, 6))
    assert graph.blocks and any(len(set(p.channels)) < len(p.channels) for p in graph.gates)
    readers = [(point.group, point.channels) for point in graph.gates]
    assert len(set(readers)) < len(readers)
    return graph


def splits():
    pixels = torch.zeros(8, 1, 6, 6, dtype=torch.uint8)
    source = MemorySource(pixels, torch.arange(8) % 3)
    parts = [
        Split(name, lambda: source, mean=(0.5,), std=(0.25,)) for name in ("train", "validation", "test")
    ]
    return Splits(*parts, tuple("abc"), (1, 6, 6), (0.5,), (0.25,))


def problem(graph, model):
    shapes = {
        "stem": (1, 6),
        "block.conv1": (6, 5),
        "block.conv2": (5, 6),
        "conv3": (6, 4),
        "shortcut": (6, 4),
    }
    axes = graph.axes()
    sites = [Site(name, ConvShape(1, a, 6, 6, b), *axes[name]) for name, (a, b) in shapes.items()]
    return Problem(
        model=model,
        graph=graph,
        cost=macs_cost(NetworkCost("net", tuple(sites), graph.sizes())),
        budget=Budget.parse("macs=0.5x"),
        ratio=0.5,
        splits=splits(),
        epochs=1,
        seed=0,
        state_dir=Path(),
        batch_size=4,
    )


@pytest.fixture
def fake():
    """A fake network on a GPU and the mode that its tensors belong to."""
    model, mode = Net(), FakeTensorMode()
    with mode:
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape, device=GPU))
            for name, buffer in list(module.named_buffers(recurse=False)):
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=GPU)
    return model, mode


def answered(gates, graph, device):
    """Let the look for closed blocks run as far as it can, and say that every block is closed for some image."""
    real, looks = gates._look_for_closed, []

    def look():
        with pytest.raises((DataDependentOutputException, RuntimeError, NotImplementedError)) as caught:
            real()
        assert not re.search(f"{MIXED}|is not on the expected device", str(caught.value))
        looks.append(True)
        batch = len(gates.last[next(iter(gates.last))])
        return {block.name: torch.ones(batch, dtype=torch.bool, device=device) for block in graph.blocks}

    gates._look_for_closed = look
    return looks


@cuda_build
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shard", [None, (1, 5, 9)])
def test_the_gated_forward_pass_stays_on_its_device(graph, fake, training, shard):
    model, mode = fake
    with mode:
        gates = Gates(graph, device=GPU).train(training)
        gates.shard = shard
        looks = answered(gates, graph, GPU)
        gates.attach(model)
        output = model(torch.zeros(4, 1, 6, 6, device=GPU))
    assert output.device == GPU and looks
    assert {tensor.device for tensor in gates.last.values()} == {GPU}


@cuda_build
def test_gates_elsewhere_than_the_model_do_raise(graph, fake):
    """The test above can fail."""
    model, mode = fake
    with mode:
        gates = Gates(graph).train()
        answered(gates, graph, GPU)
        gates.attach(model)
        with pytest.raises(RuntimeError, match=MIXED):
            model(torch.zeros(4, 1, 6, 6, device=GPU))


@pytest.mark.parametrize("shard", [None, (1, 5, 9)])
def test_the_gated_backward_pass_stays_on_its_device(graph, shard):
    model = Net().to("meta").train()
    gates = Gates(graph, device="meta").train()
    gates.shard = shard
    answered(gates, graph, "meta")
    gates.attach(model)
    model(torch.zeros(4, 1, 6, 6, device="meta")).sum().backward()
    for name in gates.groups:
        assert gates.logit_of(name).grad.device.type == "meta"


@pytest.fixture
def gating(graph, fake, monkeypatch):
    """Gator's callback for the fake network; what the host reads is a real state with channels to close."""
    model, mode = fake
    monkeypatch.setattr(gating_module, "fall_work", lambda start, known=fall_work(3.0): known)
    # Of the prices only numbers come back: they are made, and used, on real tensors.
    task = problem(graph, model)
    with mode:
        gating = Gating(task, GatorConfig(initial_keep=0.95))
    real = gating._to_host
    sizes = list(gating.gates.groups.values())

    def to_host():
        for kind in real():
            assert {name: tensor.device.type for name, tensor in kind.items()} == dict.fromkeys(
                graph.groups, "cpu"
            )
            assert [tuple(tensor.shape) for tensor in kind.values()] == [(size,) for size in sizes]
        logits = torch.linspace(-2, 3, sum(sizes))
        rows = torch.stack([logits, torch.ones(sum(sizes)), torch.zeros(sum(sizes))])
        return tuple(map(gating._by_group, rows))

    sent = []

    def from_host(rows):
        assert rows.device.type == "cpu" and not isinstance(rows, FakeTensor)
        sent.append(tuple(rows.shape))
        with mode:
            return mode.from_tensor(rows).to(GPU)

    monkeypatch.setattr(gating, "_to_host", to_host)
    monkeypatch.setattr(gating, "_from_host", from_host)
    gating.sent = sent
    return gating


def test_the_gates_own_step_stays_on_its_device(graph, fake, gating):
    _, mode = fake
    channels = sum(graph.sizes().values())
    for tensor in (
        *gating.gates.parameters(),
        *gating.gates.buffers(),
        *gating.velocity.values(),
        gating._drift,
    ):
        assert isinstance(tensor, FakeTensor) and tensor.device == GPU
    step = Step(0, 1, 80, 100, 0.01)
    gating.before_step(step)
    assert gating.sent == [(channels,)]  # the masks, once
    assert all(price >= 0 for price in gating.prices.values()) and any(gating.prices.values())
    first, *rest = (gating.gates.logit_of(name) for name in graph.groups)
    with mode:
        for logits in rest:  # the first group has no gradient, as one that nobody reads
            logits.grad = torch.ones_like(logits)
    assert first.grad is None
    gating.after_step(step)
    assert gating.sent[1:] == [(2, channels)]  # the prices, once
    with pytest.raises(DataDependentOutputException):
        gating.scalars()


def test_a_gates_step_that_mixes_devices_does_raise(fake, gating):
    """The test above can fail."""
    _, mode = fake
    gating.before_step(Step(0, 1, 80, 100, 0.01))
    with mode:
        gating._velocity = torch.zeros(gating._velocity.shape)
    with pytest.raises(RuntimeError, match=MIXED):
        gating.after_step(Step(0, 1, 80, 100, 0.01))


def test_weighing_and_taylor_put_images_where_the_model_is(graph, monkeypatch):
    task = problem(graph, Net().to("meta").eval())
    monkeypatch.setattr(Gates, "_look_for_closed", lambda _: {})
    values = Values({name: np.arange(size, dtype=float) for name, size in graph.sizes().items()})
    images = [(torch.zeros(4, 1, 6, 6), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(RuntimeError, match="meta tensors"):  # the loss as a number
        measure_losses(task.model, graph, values, {"stem": (1, 6)}, images)
    with pytest.raises(NotImplementedError, match="no data"):  # the sums, at the very end
        open_method("taylor").values(task)
