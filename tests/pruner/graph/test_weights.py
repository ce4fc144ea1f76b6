"""Computed weights, numbers kept in attributes, and constants as wide as the channels."""

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pruner.graph import trace
from pruner.oracle import check
from pruner.plan import Plan
from pruner.saved import SPEC, WEIGHTS, rebuild, save_pruned
from pruner.surgery import apply

X = torch.randn(2, 3, 10, 10)


class Standardised(nn.Conv2d):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.randn(self.out_channels, 1, 1, 1))

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * 0.5).view(-1),
            training=True,
            momentum=0.0,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Scaled(nn.Module):
    """A scale for each channel, reshaped by a shape that is kept in an attribute."""

    def __init__(self, width):
        super().__init__()
        self.shape, self.gamma = (width, 1, 1), nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x):
        return x * self.gamma.view(self.shape)


class Branches(nn.Module):
    """Parts of unequal sizes that are kept in attributes, as in networks with many kernel sizes."""

    def __init__(self, width, part):
        super().__init__()
        self.sizes, self.width = (width - 2 * part, part, part), part
        self.wide = nn.Conv2d(part, part, 3, padding=1, groups=part)
        self.tall = nn.Conv2d(part, part, (5, 1), padding=(2, 0))

    def forward(self, x):
        x, wide, tall = torch.split(x, self.sizes, dim=1)
        return torch.cat([x, self.wide(wide), self.tall(tall)], 1)


class Wider(nn.Module):
    """The shortcut is added to the first channels only."""

    def __init__(self, width, out):
        super().__init__()
        self.in_channels, self.conv = width, nn.Conv2d(width, out, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        return torch.cat([y[:, : self.in_channels] + x, y[:, self.in_channels :]], 1)


class Blur(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.channels = width
        self.register_buffer("filt", torch.rand(1, 1, 3, 3).repeat(width, 1, 1, 1), persistent=False)

    def forward(self, x):
        return F.conv2d(x, self.filt, stride=2, groups=self.channels)


class Response(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        size = x.norm(p=2, dim=(2, 3), keepdim=True)
        relative = size / (size.mean(dim=1, keepdim=True) + 1e-6)
        weight, bias = self.weight.view(1, -1, 1, 1), self.bias.view(1, -1, 1, 1)
        return x + torch.addcmul(bias, weight, x * relative)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrised():
    layer = nn.Conv2d(8, 6, 3)
    nn.utils.parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def conv(width, out):
    return nn.Conv2d(width, out, 3, padding=1)


NETS = {  # name: model, channels that can be cut, numbers in attributes
    "standardised": (lambda: [Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 12, 3), conv(12, 4)], 20, 0),
    "grouped": (
        lambda: [conv(3, 8), nn.ReLU(), Standardised(8, 12, 3, groups=4), nn.ReLU(), conv(12, 4)],
        2 + 3,
        0,
    ),
    "weight norm": (
        lambda: [conv(3, 8), nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 6, 3)), conv(6, 4)],
        8 + 6,
        0,
    ),
    "parametrised": (lambda: [conv(3, 8), parametrised(), conv(6, 4)], 8 + 6, 0),
    "scaled": (lambda: [conv(3, 8), Scaled(8), conv(8, 4)], 8, 1),
    "branches": (lambda: [conv(3, 12), Branches(12, 3), conv(12, 4)], 6 + 3 + 3 + 3, 4),
    "wider": (lambda: [conv(3, 6), nn.ReLU(), Wider(6, 10), nn.ReLU(), conv(10, 4)], 6 + 4, 1),
    "blur": (lambda: [conv(3, 6), Blur(6), conv(6, 4)], 6, 1),
    "response": (lambda: [conv(3, 6), Response(6), conv(6, 4)], 6, 0),
    "group norm": (lambda: [conv(3, 12), nn.GroupNorm(3, 12), nn.ReLU(), conv(12, 4)], 4, 0),
}


@pytest.mark.parametrize("name", NETS)
def test_is_cut_exactly_saved_and_rebuilt(name, tmp_path):
    factory, channels, attributes = NETS[name]

    def make():
        torch.manual_seed(3)
        return nn.Sequential(*factory()).eval()

    model = make()
    graph = trace(model, X)
    assert sum(graph.sizes().values()) == channels
    assert len(graph.attributes) == attributes
    for seed in range(4):
        rng = random.Random(seed)
        keep = {group: rng.sample(range(n), rng.randint(1, n)) for group, n in graph.sizes().items()}
        assert check(model, graph, keep, inputs=X, seed=seed).ok
    gone = {g: tuple(set(range(graph.sizes()[g])) - set(kept)) for g, kept in keep.items()}
    plan = Plan(graph.fingerprint, gone)
    cut = apply(model, graph, plan)
    save_pruned(cut, tmp_path, original=model, graph=graph, plan=plan)
    again = rebuild(make, tmp_path / SPEC, tmp_path / WEIGHTS)
    assert torch.equal(again(X), cut(X))


def test_the_oracle_averages_computed_weights_over_kept_channels_only():
    model = nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 4, 3))
    graph = trace(model, X)
    assert graph.normalised == ("0",)
    whole = model(X)
    assert check(model, graph, {"0": [1, 2, 6]}, inputs=X).ok
    with torch.no_grad():
        model[2].weight[:, [0, 3, 4, 5, 7]] = 0  # a mask of the raw weight is another function
    assert not torch.allclose(model(X), whole)


def test_a_number_that_only_looks_like_a_count_is_left_alone():
    class Coincidence(Branches):
        def __init__(self):
            super().__init__(12, 3)
            self.scale = 3  # equals the width of a part

        def forward(self, x):
            return super().forward(x) * self.scale

    model = nn.Sequential(conv(3, 12), Coincidence(), conv(12, 4))
    graph = trace(model, X)
    for seed in range(4):
        rng = random.Random(seed)
        keep = {group: rng.sample(range(n), rng.randint(1, n)) for group, n in graph.sizes().items()}
        assert check(model, graph, keep, inputs=X).ok


def test_parts_without_an_attribute_stay_whole():
    class Literal(nn.Module):
        def forward(self, x):
            left, right = x.split([5, 3], 1)
            return torch.cat([right, left], 1)

    graph = trace(nn.Sequential(conv(3, 8), Literal(), conv(8, 4)), X)
    assert not graph.groups
    assert "unequal parts at test_weights.py" in graph.frozen[0].why


def test_a_parameter_in_two_places_is_cut_only_where_both_can_be():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 4)
            self.shift = nn.Parameter(torch.randn(8))

        def forward(self, x):
            y = self.a(x) + self.shift[:, None, None]
            return self.b(y), self.shift.sum()

    model = Tied()
    graph = trace(model, X)
    assert not graph.groups
    assert "reduced over its channels at test_weights.py" in graph.frozen[0].why


@pytest.mark.parametrize("first", [True, False])
def test_a_parameter_added_to_a_whole_input_stays_whole(first):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 4)
            self.shift = nn.Parameter(torch.randn(8))

        def forward(self, x, z):
            if first:
                z = z + self.shift
            y = self.b(self.a(x) + self.shift[:, None, None])
            return y, z if first else z * self.shift.view(1, 8)

    assert not trace(Tied(), (X, torch.randn(2, 8)), trial=False).groups
