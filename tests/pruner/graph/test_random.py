"""Random networks: whatever is cut, the cut network computes what the masked one computes."""

import random

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pruner.graph import trace
from pruner.oracle import check
from pruner.surgery import remove

KINDS = ["conv", "depthwise", "multiplied", "grouped", "transposed", "one", "add", "cat", "chunk", "shuffle"]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6
)
SETTINGS = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def layer(kind, width, out):
    """Return a layer of one kind that keeps the size of the image, and the width that it writes."""
    if kind == "depthwise":
        return nn.Conv2d(width, width, 3, padding=1, groups=width), width
    if kind == "multiplied":
        return nn.Conv2d(width, 2 * width, 3, padding=1, groups=width), 2 * width
    if kind == "grouped":
        return nn.Conv2d(width, 8, 3, padding=1, groups=2), 8
    if kind == "transposed":
        groups = 2 if out % 4 == 0 else 1
        return nn.ConvTranspose2d(width, out, 3, padding=1, groups=groups), out
    if kind == "one":
        return nn.Conv2d(width, 1, 1), 1
    return nn.Conv2d(width, out, 3, padding=1), out


class Graph(nn.Module):
    """A random graph: each step reads one or two of the values before it; the head reads all of them."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.layers, self.norms = steps, nn.ModuleList(), nn.ModuleList()
        widths = [8]
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        for kind, first, second in steps:
            a, b = widths[first % len(widths)], widths[second % len(widths)]
            if kind == "add":
                made, width = nn.Conv2d(b, a, 1), a
            elif kind == "cat":
                made, width = nn.Conv2d(a + b, 8, 1), 8
            elif kind == "chunk":
                made, width = nn.Conv2d(a // 2, 6, 1), 6
            elif kind == "shuffle":
                made, width = nn.Identity(), a
            else:
                made, width = layer(kind, a, 4 + 2 * (second % 3))
            if width % 2 or width > 16:  # a map of one channel scales what it was made of
                made = nn.Sequential(made, nn.Sigmoid() if width == 1 else nn.Conv2d(width, 8, 1))
                width = a if width == 1 else 8
            self.layers.append(made)
            self.norms.append(nn.BatchNorm2d(width))
            widths.append(width)
        self.head = nn.Conv2d(sum(widths), 3, 1)

    def forward(self, x):
        values = [F.relu(self.stem(x))]
        for (kind, first, second), made, norm in zip(self.steps, self.layers, self.norms, strict=True):
            a, b = values[first % len(values)], values[second % len(values)]
            if kind == "add":
                y = a + made(b)
            elif kind == "cat":
                y = made(torch.cat([a, b], 1))
            elif kind == "chunk":
                left, right = a.chunk(2, 1)
                y = made(left * right)
            elif kind == "shuffle":
                y = made(a.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))
            elif kind == "one":
                y = a * made(a)
            else:
                y = made(a)
            values.append(F.relu(norm(y)))
        return self.head(torch.cat(values, 1))


@SETTINGS
@given(STEPS, st.integers(0, 1000), st.sampled_from(["some", "one", "all but one"]))
def test_graphs(steps, seed, share):
    torch.manual_seed(seed)
    model, x = Graph(steps), torch.randn(2, 3, 6, 6)
    graph = trace(model, x, trial=False)
    rng = random.Random(seed)
    keep = {}
    for name, size in graph.sizes().items():
        count = {"some": rng.randint(1, size), "one": 1, "all but one": max(1, size - 1)}[share]
        keep[name] = rng.sample(range(size), count)
    assert check(model, graph, keep, inputs=x, seed=seed).ok


class Residual(nn.Module):
    def __init__(self, width, out, stride, inner, kind):
        super().__init__()
        self.enter = nn.Conv2d(width, inner, 1, bias=False)
        self.first = nn.BatchNorm2d(inner)
        self.middle, inner = layer(kind, inner, 2 * inner)
        self.second = nn.BatchNorm2d(inner)
        self.leave = nn.Conv2d(inner, out, 1, stride)
        self.last = nn.BatchNorm2d(out)
        self.act = nn.ReLU(inplace=True)
        self.short = (
            nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            if stride > 1 or width != out
            else nn.Identity()
        )

    def forward(self, x):
        y = F.relu(self.second(self.middle(F.relu(self.first(self.enter(x))))))
        return self.act(self.last(self.leave(y)) + self.short(x))


class Stages(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.stem, self.body, width = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList(), 4
        for grow, inner, kind in blocks:
            out = width + 2 if grow else width
            self.body.append(Residual(width, out, 1 + grow, inner, kind))
            width = out
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.body:
            x = block(x)
        return self.head(x.mean((2, 3)))


BLOCKS = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from([2, 4, 8]),
        st.sampled_from(["conv", "depthwise", "multiplied", "grouped", "transposed"]),
    ),
    min_size=1,
    max_size=4,
)


@SETTINGS
@given(BLOCKS, st.integers(0, 1000), st.lists(st.sampled_from(["keep", "name", "empty"]), min_size=4))
def test_residual_stages_with_emptied_and_removed_blocks(blocks, seed, what):
    torch.manual_seed(seed)
    model, x = Stages(blocks), torch.randn(2, 3, 8, 8)
    graph = trace(model, x, trial=False)
    assert [block.name for block in graph.blocks] == [f"body.{i}" for i in range(len(blocks))]
    rng = random.Random(seed)
    keep = {name: rng.sample(range(n), rng.randint(1, n)) for name, n in graph.sizes().items()}
    for block, way in zip(graph.blocks, what, strict=False):
        if way == "empty":
            keep |= {group: [] for group in block.groups}
    named = [block.name for block, way in zip(graph.blocks, what, strict=False) if way == "name"]
    result = check(model, graph, keep, named, inputs=x, seed=seed)
    assert result.ok, result
    cut = remove(model, graph, keep, blocks=named)
    gone = {block.name for block, way in zip(graph.blocks, what, strict=False) if way != "keep"}
    assert not any(
        path.endswith(".enter") and path.rpartition(".")[0] in gone for path, _ in cut.named_modules()
    )
