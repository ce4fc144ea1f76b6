"""Which residual branches are offered for removal, and why others are not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruner.graph import trace
from pruner.oracle import check
from pruner.surgery import remove

X = torch.randn(2, 3, 8, 8)


class Block(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv1, self.conv2 = nn.Conv2d(6, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.norm, self.act, self.extra = nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))

    def forward(self, x):
        branch = self.norm(self.conv2(F.relu(self.conv1(x))))
        if self.kind == "plain":
            return x + branch
        if self.kind == "functional":
            return F.silu(branch + x)
        if self.kind == "module":
            return self.act(x + branch)
        if self.kind == "scaled":
            return x + self.scale * branch
        if self.kind == "goes on":
            return self.extra(x + branch)
        if self.kind == "functional shortcut":
            return F.avg_pool2d(x, 3, 1, 1) + branch
        if self.kind == "shared shortcut":
            return self.extra(x) + self.norm(self.conv2(F.relu(self.conv1(self.extra(x)))))
        if self.kind == "pre-activation":
            y = F.relu(self.norm(x))
            return self.extra(y) + self.conv2(F.relu(self.conv1(y)))
        raise ValueError(self.kind)


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 6, 1), Block(kind), nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        # the block's input is read elsewhere too: a replacement must not write into it
        return self.head(torch.cat([self.block(x), x], 1))


@pytest.mark.parametrize("kind", ["plain", "functional", "module", "scaled"])
def test_offered(kind):
    model = Net(kind)
    graph = trace(model, X)
    (block,) = graph.blocks
    assert (block.name, block.groups, block.sites) == (
        "block",
        ("block.conv1",),
        ("block.conv1", "block.conv2"),
    )
    assert (block.tail, block.skip) == ("block.norm", ())
    assert check(model, graph, {"stem": [0, 2, 3]}, ["block"], inputs=X).ok
    expected = {"plain": nn.Identity, "scaled": nn.Identity, "module": nn.ReLU, "functional": nn.SiLU}[kind]
    assert type(remove(model, graph, {}, blocks=["block"]).block) is expected


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("goes on", "goes on into conv2d"),
        ("functional shortcut", "not a chain of its own submodules"),
        ("shared shortcut", "branch and shortcut share|used in the branch and in the shortcut|equally many"),
        ("pre-activation", "share operators"),
    ],
)
def test_not_offered_with_a_reason(kind, why):
    graph = trace(Net(kind), X)
    assert not graph.blocks
    (note,) = graph.notes
    assert note.what == "block"
    assert note.why.startswith("not a removable block: ")
    import re

    assert re.search(why, note.why)


def test_a_block_called_twice_is_not_offered():
    class Twice(Net):
        def forward(self, x):
            return self.head(torch.cat([self.block(self.block(self.stem(x))), self.stem(x)], 1))

    graph = trace(Twice("plain"), X)
    assert not graph.blocks
    assert "more than once" in graph.notes[0].why


def test_a_block_whose_parent_reads_its_attributes_is_found_by_the_trial():
    class Reads(Net):
        def forward(self, x):
            x = self.stem(x)
            y = self.block(x)
            return self.head(torch.cat([y, x], 1)) * self.block.conv1.in_channels

    graph = trace(Reads("plain"), X)
    assert not graph.blocks
    assert "conv1" in graph.notes[0].why
