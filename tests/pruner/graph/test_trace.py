"""Channel graphs of many kinds of networks, each checked by the removal oracle."""

import random
import time

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from traced_networks import (
    Attention,
    CifarResNet,
    Dense,
    Grouped,
    Inverted,
    Normed,
    PadShortcut,
    Several,
    Shared,
    Shuffle,
    SubPixel,
    Vgg,
    conv,
)

from latency_model.errors import ModelError
from latency_model.network import Channels
from pruner.graph import trace
from pruner.oracle import check
from pruner.surgery import remove

NETS = {
    "cifar": lambda: CifarResNet(2, (8, 12, 16)),
    "pad": PadShortcut,
    "vgg": Vgg,
    "dense": Dense,
    "mobile": lambda: nn.Sequential(
        conv(3, 6), Inverted(6, 6), Inverted(6, 8, multiplier=2), Inverted(8, 8), nn.Conv2d(8, 4, 1)
    ),
    "shuffle": Shuffle,
    "attention": Attention,
    "grouped": Grouped,
    "subpixel": SubPixel,
    "shared": Shared,
    "normed": Normed,
}

CHANNELS = {
    "cifar": 8 + 12 + 16 + 2 * (8 + 12 + 16),
    "pad": 8 + 12,  # the four padded channels on each side keep theirs whole
    "vgg": 8 + 12 + 20,
    "dense": 8 + 3 * 6,
    "mobile": 6 + 18 + 4 + 18 + 4 + 8 + 24 + 4,
    "shuffle": 3 + 6 + 6,
    "attention": 8,  # the map of one channel stays
    "grouped": 16 // 4 + 24 // 4 + 10 // 2 + 12 // 2,
    "subpixel": 6,
    "shared": 8,
    "normed": 8 + 12,
}


def draw(graph, seed, *, least=1):
    rng = random.Random(seed)
    return {
        name: sorted(rng.sample(range(group.size), rng.randint(min(least, group.size), group.size)))
        for name, group in graph.groups.items()
    }


@pytest.mark.parametrize("name", NETS)
def test_random_cuts_compute_what_the_masked_network_computes(name):
    torch.manual_seed(0)
    model = NETS[name]()
    x = torch.randn(2, 3, 16, 16)
    graph = trace(model, x)
    assert model.training
    assert sum(graph.sizes().values()) == CHANNELS[name]
    for seed in range(4):
        result = check(model, graph, draw(graph, seed), inputs=x, seed=seed)
        assert result.ok, (seed, result)
    single = {name: [group.size - 1] for name, group in graph.groups.items()}
    assert check(model, graph, single, inputs=x).ok


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "shufflenet_v2_x0_5", "mobilenet_v3_small"])
def test_torchvision(name):
    torch.manual_seed(0)
    model = getattr(torchvision.models, name)()
    graph = trace(model, torch.randn(1, 3, 64, 64))
    assert {entry.why for entry in graph.frozen} == {"model output"}
    assert check(model, graph, draw(graph, 1), seed=1).ok


def test_resnet50_has_the_published_groups_and_is_fast():
    start = time.process_time()
    graph = trace(torchvision.models.resnet50(), torch.randn(2, 3, 64, 64))
    assert time.process_time() - start < 20
    assert (len(graph.groups), sum(graph.sizes().values())) == (37, 11456)
    assert len(graph.blocks) == 16


def test_cifar_resnet56_has_the_published_groups():
    graph = trace(CifarResNet(9), torch.randn(2, 3, 32, 32), trial=False)
    assert (len(graph.groups), sum(graph.sizes().values())) == (30, 1120)
    assert next(iter(graph.groups)) == "conv1"
    assert list(graph.groups)[1] == "layer1.0.conv1"
    convs = [site for site in graph.sites if site.kind == "conv"]
    highway = sum(
        ("conv1", 1) in channels.terms for site in convs for channels in (site.inputs, site.outputs)
    )
    assert highway == 21
    assert len(graph.blocks) == 27


def test_flatten_counts_every_position_of_a_channel():
    graph = trace(Vgg(), torch.randn(2, 3, 16, 16))
    inputs, outputs = graph.axes()["classifier.0"]
    assert inputs == Channels(0, (("features.2.0", 49),))
    assert outputs == Channels(0, (("classifier.0", 1),))
    member = next(m for m in graph.groups["features.2.0"].members if m.parameter == "classifier.0.weight")
    assert member.indices[1] == tuple(range(49, 98))
    gate = next(g for g in graph.gates if g.module == "classifier.0")
    assert gate.channels == tuple(c for c in range(12) for _ in range(49))


def test_concat_has_one_term_for_each_part():
    graph = trace(Dense(), torch.randn(2, 3, 16, 16))
    assert graph.axes()["convs.1"][0] == Channels(0, (("stem", 1), ("convs.0", 1)))
    assert {gate.group for gate in graph.gates if gate.module == "fc"} == {
        "stem",
        "convs.0",
        "convs.1",
        "convs.2",
    }


def test_depthwise_is_no_consumer():
    graph = trace(NETS["mobile"](), torch.randn(2, 3, 16, 16))
    depthwise = {site.name for site in graph.sites if site.kind == "depthwise"}
    assert len(depthwise) == 3
    assert not depthwise & {gate.module for gate in graph.gates}
    assert graph.axes()["2.body.1.0"][1].terms == (("2.body.0.0", 2),)


def test_several_inputs_and_outputs():
    model, args = Several(), (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8))
    graph = trace(model, args)
    assert list(graph.groups) == ["left.0", "right.0", "join.0"]
    assert check(model, graph, {"left.0": [1], "right.0": [0, 5], "join.0": [2]}, inputs=args).outputs == 2


def test_explain_names_groups_blocks_and_reasons():
    graph = trace(NETS["cifar"](), torch.randn(2, 3, 16, 16))
    text = graph.explain()
    for part in (
        "layer1.0.conv1: 8 channels",
        "6 removable blocks",
        "fc: model output",
        "shortcut layer2.0.downsample",
    ):
        assert part in text


def test_an_unknown_operator_keeps_its_input_whole_and_says_where():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 8), nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.b(self.a(x))
            return self.c(torch.cumsum(x, 1))

    graph = trace(Unknown(), torch.randn(2, 3, 8, 8))
    assert list(graph.groups) == ["a.0"]
    reasons = {entry.what: entry.why for entry in graph.frozen}
    assert "aten.cumsum at test_trace.py:" in reasons["b.0"]


@pytest.mark.parametrize("hard", ["split", "view", "slice"])
def test_sizes_written_as_numbers_are_found_by_the_trial(hard):
    class Hard(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = conv(3, 8), conv(8, 8), nn.Conv2d(4 if hard == "slice" else 8, 2, 1)

        def forward(self, x):
            x = self.b(self.a(x))
            if hard == "split":
                x = torch.cat(x.split(4, dim=1)[::-1], 1)
            elif hard == "view":
                x = x.view(x.shape[0], -1, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
            else:
                x = x[:, :4] + x[:, 4:]
            return self.c(x)

    model, x = Hard(), torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    assert list(graph.groups) == ["a.0"]
    assert any(
        entry.what == "b.0" and ("with it cut" in entry.why or "masked" in entry.why)
        for entry in graph.frozen
    )
    assert check(model, graph, {"a.0": [1, 2]}, inputs=x).ok
    assert "b.0" in trace(model, x, trial=False).groups


class Centred(nn.Conv2d):
    """A layer whose weight is computed over all its channels at once."""

    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


def test_a_weight_that_mixes_its_channels_stays_whole_but_its_site_is_listed():
    model = nn.Sequential(conv(3, 8), Centred(8, 8, 3), nn.Conv2d(8, 2, 1))
    graph = trace(model, torch.randn(2, 3, 8, 8))
    assert not graph.groups
    assert graph.axes()["1"] == (Channels(8), Channels(8))
    assert any("reduced over its channels at test_trace.py" in entry.why for entry in graph.frozen)


class Auxiliary(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head, self.aux = conv(3, 8), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x, targets=None):
        x = self.stem(x)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_a_head_that_only_training_runs_is_cut_with_the_trunk():
    model, x = Auxiliary(), torch.randn(2, 3, 8, 8)
    graph = trace(model, x)
    cut = remove(model, graph, {"stem.0": [1, 5, 6]}).train()
    assert cut.aux.weight.shape == (2, 3, 1, 1)
    assert all(part.shape == (2, 2, 8, 8) for part in cut(x))
    assert check(model, graph, {"stem.0": [1, 5, 6]}, inputs=x).ok


def test_a_head_that_cannot_be_captured_is_reported():
    class Losses(Auxiliary):
        def forward(self, x, targets=None):
            x = self.stem(x)
            return self.aux(x)[targets["labels"]] if self.training else self.head(x)

    graph = trace(Losses(), torch.randn(2, 3, 8, 8))
    assert {entry.what: entry.why for entry in graph.frozen}["aux"].startswith("not run in eval mode")


def test_an_untraceable_model_names_the_line():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            y = self.a(x)
            if y.mean() > 0:
                y = -y
            return y

    line = Branches.forward.__code__.co_firstlineno + 2
    with pytest.raises(ModelError, match=rf"Branches at .*test_trace.py:{line}"):
        trace(Branches(), torch.randn(2, 3, 8, 8))
