"""Pruned models come back from their constructor, a JSON file and a weights file."""

import json

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from latency_model.errors import InputError, WeightsError
from pruner.graph import trace
from pruner.plan import Plan
from pruner.saved import SPEC, WEIGHTS, rebuild, save_pruned
from pruner.surgery import apply

X = torch.randn(2, 3, 32, 32)
FACTORIES = {
    "basic": lambda: ResNet(BasicBlock, [2, 1, 1, 1], num_classes=5),
    "bottleneck": lambda: ResNet(Bottleneck, [1, 2, 1, 1], num_classes=5),
    "depthwise": lambda: MobileNetV2(num_classes=5, width_mult=0.35),
}


def pruned_pair(name):
    torch.manual_seed(1)
    model = FACTORIES[name]()
    graph = trace(model, X)
    removed = {group: tuple(range(0, size - 1, 3)) for group, size in graph.sizes().items()}
    plan = Plan(graph.fingerprint, removed, (graph.blocks[0].name, graph.blocks[-1].name), model=name)
    return model, graph, plan, apply(model, graph, plan).eval()


@pytest.mark.parametrize("name", FACTORIES)
def test_round_trip_is_bit_equal_without_the_graph(name, tmp_path, monkeypatch):
    model, graph, plan, pruned = pruned_pair(name)
    save_pruned(pruned, tmp_path, original=model, graph=graph, plan=plan)
    monkeypatch.setattr(torch.export, "export", None)
    again = rebuild(FACTORIES[name], tmp_path / SPEC, tmp_path / WEIGHTS).eval()
    state = again.state_dict()
    assert list(state) == list(pruned.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in pruned.state_dict().items())
    assert repr(again) == repr(pruned)
    assert torch.equal(again(X), pruned(X))


def test_without_weights_and_from_a_dictionary(tmp_path):
    model, graph, plan, pruned = pruned_pair("basic")
    save_pruned(pruned, tmp_path, original=model, graph=graph, plan=plan)
    spec = json.loads((tmp_path / SPEC).read_text())
    assert repr(rebuild(FACTORIES["basic"], spec)) == repr(pruned)
    assert spec["model"] == "basic"


def test_what_does_not_fit(tmp_path):
    model, graph, plan, pruned = pruned_pair("basic")
    save_pruned(pruned, tmp_path, original=model, graph=graph, plan=plan)
    spec, weights = tmp_path / SPEC, tmp_path / WEIGHTS
    with pytest.raises(InputError, match="does not fit Sequential"):
        rebuild(lambda: nn.Sequential(nn.Conv2d(3, 4, 1)), spec, weights)
    with pytest.raises(WeightsError, match="does not fit the specification"):
        rebuild(FACTORIES["basic"], {"blocks": [], "modules": {}, "shapes": {}}, weights)
    with pytest.raises(WeightsError, match="no weights file"):
        rebuild(FACTORIES["basic"], spec, tmp_path / "gone.safetensors")
    weights.write_bytes(b"torn")
    with pytest.raises(WeightsError, match="does not fit"):
        rebuild(FACTORIES["basic"], spec, weights)
    spec.write_text("{}")
    with pytest.raises(InputError, match="does not describe a pruned model"):
        rebuild(FACTORIES["basic"], spec, weights)


def test_a_tied_parameter_stays_tied(tmp_path):
    def factory():
        net = nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 2, 1)
        )
        net[3].weight = net[1].weight
        return net

    model = factory()
    graph = trace(model, X)
    plan = Plan(graph.fingerprint, {"0": (1, 2)})
    pruned = apply(model, graph, plan)
    save_pruned(pruned, tmp_path, original=model, graph=graph, plan=plan)
    again = rebuild(factory, tmp_path / SPEC, tmp_path / WEIGHTS)
    assert again[1].weight is again[3].weight
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in pruned.state_dict().items())
