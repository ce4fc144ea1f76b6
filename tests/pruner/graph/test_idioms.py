"""Seventeen ordinary ways to write a forward: cut exactly, kept whole for a reason, or refused with the line."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latency_model.errors import ModelError
from pruner.graph import trace
from pruner.oracle import check
from pruner.surgery import remove


class Net(nn.Module):
    """Two convolutions and a head; what happens between them is the idiom."""

    def __init__(self, width=12):
        super().__init__()
        self.a, self.n = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width)
        self.b, self.head = nn.Conv2d(width, 10, 3, padding=1), nn.Conv2d(10, 4, 1)

    def first(self, x):
        return F.relu(self.n(self.a(x)))

    def rest(self, y):
        return self.head(F.relu(self.b(y)))

    def forward(self, x):
        return self.rest(self.first(x))


class BranchOnShape(Net):
    def forward(self, x):
        y = self.first(x)
        if y.shape[2] > 8:
            y = F.max_pool2d(y, 2)
        return self.rest(y)


class LoopOverBatch(Net):
    def forward(self, x):
        y = self.first(x)
        return torch.cat([self.rest(y[i : i + 1] / (i + 1)) for i in range(y.shape[0])])


class BranchOnValue(Net):
    def forward(self, x):
        y = self.first(x)
        if y.mean() > 0:
            y = y + 1
        return self.rest(y)


class Item(Net):
    def forward(self, x):
        y = self.first(x)
        scale = 1 / y.mean().item() if y.sum().item() > 0 else 1.0
        return self.rest(y * scale)


class Asserts(Net):
    def forward(self, x):
        assert x.shape[1] == 3
        return self.rest(self.first(x))


class Dictionaries(Net):
    def forward(self, inputs):
        return {"out": self.rest(self.first(inputs["image"]) + self.first(inputs["other"][0]))}


class SliceAssignment(Net):
    def forward(self, x):
        y = self.first(x).clone()
        y[:, :8] = y[:, :8] * 2
        return self.rest(y)


class NewTensor(Net):
    def forward(self, x):
        y = self.first(x)
        zeros = torch.zeros(y.shape[0], 2, *y.shape[2:], dtype=y.dtype, device=y.device)
        return self.rest(
            torch.cat([y, zeros], 1)[:, 1:-1] + 0 * torch.zeros(y.shape[0], 1, 1, 1, device=y.device)
        )


class NewTensorBeside(Net):
    def forward(self, x):
        y = self.first(x)
        return self.rest(y + torch.zeros(y.shape[0], y.shape[1], 1, 1, dtype=y.dtype, device=y.device))


class NoGrad(Net):
    def forward(self, x):
        with torch.no_grad():
            y = self.first(x)
        return self.rest(y)


class Twice(Net):
    def __init__(self):
        super().__init__()
        self.middle = nn.Conv2d(12, 12, 1)

    def forward(self, x):
        return self.rest(self.middle(F.relu(self.middle(self.first(x)))))


class ComputedWeight(Net):
    def forward(self, x):
        y = self.first(x)
        return self.head(F.relu(F.conv2d(y, self.b.weight - self.b.weight.mean(), self.b.bias, padding=1)))


class Autocast(Net):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.first(x)
        return self.rest(y.float())


class Variadic(Net):
    def forward(self, *images):
        return self.rest(sum(self.first(image) for image in images))


class TopK(Net):
    def forward(self, x):
        y = self.first(x)
        scores = self.b(y).mean((2, 3))
        values, best = scores.topk(2, dim=1)
        return self.rest(y), values, scores.gather(1, best)


def frozen_parameters():
    model = Net()
    for parameter in model.a.parameters():
        parameter.requires_grad_(False)
    return model


def weight_norm():
    model = Net()
    model.b = nn.utils.parametrizations.weight_norm(model.b)
    return model


def hooked():
    model = Net()
    model.a.register_forward_hook(lambda _, __, output: output * 2)
    return model


X, Y = torch.randn(2, 3, 10, 10), torch.randn(2, 3, 10, 10)
CUT = {  # idiom: model, inputs, groups
    "shape": (BranchOnShape, X, {"a", "b"}),
    "loop": (LoopOverBatch, X, {"a", "b"}),
    "assert": (Asserts, X, {"a", "b"}),
    "dictionaries": (Dictionaries, {"image": X, "other": [Y]}, {"a", "b"}),
    "slice assignment": (SliceAssignment, X, {"b"}),
    "new tensor": (NewTensor, X, {"b"}),
    "new tensor beside": (NewTensorBeside, X, {"b"}),
    "frozen parameters": (frozen_parameters, X, {"a", "b"}),
    "no_grad": (NoGrad, X, {"a", "b"}),
    "weight norm": (weight_norm, X, {"a", "b"}),
    "twice": (Twice, X, {"a", "b"}),
    "computed weight": (ComputedWeight, X, set()),
    "autocast": (Autocast, X, {"a", "b"}),
    "variadic": (Variadic, (X, Y), {"a", "b"}),
    "hook": (hooked, X, {"a", "b"}),
    "topk": (TopK, X, {"a"}),
}


@pytest.mark.parametrize("name", CUT)
def test_is_cut_exactly_or_kept_whole_with_a_reason(name):
    torch.manual_seed(0)
    factory, inputs, groups = CUT[name]
    model = factory()
    graph = trace(model, inputs)
    assert set(graph.groups) == groups
    whole = {site.name for site in graph.sites if not (site.inputs.terms or site.outputs.terms)}
    assert whole <= {entry.what for entry in graph.frozen}
    # what runs in bfloat16 is rounded differently when it is smaller
    tolerance = 2e-2 if name == "autocast" else 1e-5
    for seed in range(3):
        rng = random.Random(seed)
        keep = {g: rng.sample(range(n), rng.randint(1, n)) for g, n in graph.sizes().items()}
        assert check(model, graph, keep, inputs=inputs, seed=seed, tolerance=tolerance).ok
    cut = remove(model, graph, {group: [0, 1] for group in groups})
    for (_, new), (_, old) in zip(cut.named_parameters(), model.named_parameters(), strict=True):
        assert new.requires_grad == old.requires_grad


@pytest.mark.parametrize("net", [BranchOnValue, Item])
def test_what_depends_on_values_is_refused_with_its_line_or_captured_in_part(net):
    line = net.forward.__code__.co_firstlineno + 2
    with pytest.raises(ModelError, match=rf"{net.__name__} at .*test_idioms.py:{line}.*forward_fn"):
        trace(net(), X)
    model = net()
    graph = trace(model, X, forward_fn=Net.forward)
    assert set(graph.groups) == {"a", "b"}
    keep = {"a": [0, 3, 4], "b": [1]}
    assert check(model, graph, keep, inputs=X, forward_fn=Net.forward).ok
    assert "forward" not in vars(model)
    assert remove(model, graph, keep).eval()(X).shape == (2, 4, 10, 10)
