"""Networks through the real builder of TensorRT-RTX, without a device: what is fused with what."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latency_model.harvest import harvest_onnx
from latency_model.harvest.from_engine import engine_cost
from profiler.gpu.tensorrt_build import build_engine
from profiler.onnx_export import export_onnx

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")


class Residual(nn.Module):
    """As ResNet-18: a stem with its pooling, a plain block, one with a projection, and the head."""

    def __init__(self):
        super().__init__()
        self.stem, self.a = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.b, self.c = nn.Conv2d(16, 16, 3, 1, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.d, self.p = nn.Conv2d(32, 32, 3, 1, 1), nn.Conv2d(16, 32, 1, 2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.relu(self.stem(x)), 3, 2, 1)
        x = torch.relu(self.b(torch.relu(self.a(x))) + x)
        x = torch.relu(self.d(torch.relu(self.c(x))) + self.p(x))
        return self.fc(x.mean((2, 3)))


class Inverted(nn.Module):
    """As MobileNetV2: an inverted residual block between a stem and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 96, 1)
        self.depth, self.project = nn.Conv2d(96, 96, 3, 1, 1, groups=96), nn.Conv2d(96, 16, 1)
        self.last, self.fc = nn.Conv2d(16, 64, 1), nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu6(self.stem(x))
        x = self.project(F.relu6(self.depth(F.relu6(self.expand(x))))) + x
        return self.fc(F.relu6(self.last(x)).mean((2, 3)))


class Branches(nn.Module):
    """As Inception, with a squeeze and excitation after it: siblings, a concatenation, gates."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 16, 1), nn.Conv2d(32, 24, 1)
        self.c, self.d = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.squeeze, self.excite, self.last = nn.Conv2d(56, 8, 1), nn.Conv2d(8, 56, 1), nn.Conv2d(56, 8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x)), self.d(F.silu(self.c(x)))], 1)
        x = x * F.hardsigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        return self.last(x)


def cost(module, size, target="8.9"):
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.bias.data.normal_()  # the exporter drops a bias of zeros
    model = export_onnx(module.eval(), (3, size, size), batch=1, precision="fp16")
    engine = build_engine(model, compute_capability=target, flavour="tensorrt_rtx")
    network = harvest_onnx(model)
    found = engine_cost(engine.layers, model, network)
    # What holds of every engine: all layers have a use, all convolutions a site, all groups are kept.
    assert [use.layer for use in found.layers] == [layer.name for layer in engine.layers]
    assert [site.name for site in found.network.sites] == [site.name for site in network.sites]
    assert found.network.groups == network.groups
    assert all(use.role != "unknown" for use in found.layers)
    return found


def patterns(found):
    return {site.name: site.shape.pattern for site in found.network.sites}


@pytest.mark.parametrize("target", ["7.5", "8.9", "12.0"])
def test_a_residual_network(target):
    found = cost(Residual(), 32, target)
    fused = patterns(found)
    added = [name for name, pattern in fused.items() if pattern == "conv+bias+add+relu"]
    # Each addition is in one of its operands; of the projection and the convolution beside it TensorRT chooses.
    assert len(added) == 2
    assert "b" in added
    assert {*added} <= {"b", "d", "p"}
    assert fused["stem"] == fused["a"] == fused["c"] == "conv+bias+relu"
    assert {fused[name] for name in "dp"} == {"conv+bias", "conv+bias+add+relu"}
    assert [site.shape.op for site in found.network.ops][:3] == ["MaxPool", "ReduceMean", "Gemm"]
    assert {site.shape.op for site in found.network.ops[3:]} <= {"Reformat"}
    assert not found.network.others
    assert found.notes == found.unmatched == ()
    # The image is padded and turned to NHWC before the first convolution.
    assert found.layers[0].role == "boundary"
    assert found.layers[0].nodes[0] == found.layers[1].nodes[0]


def test_an_inverted_residual():
    found = cost(Inverted(), 32)
    clipped = dict.fromkeys(("stem", "expand", "depth", "last"), "conv+bias+clip")
    assert patterns(found) == {**clipped, "project": "conv+bias+add"}
    assert [site.shape.op for site in found.network.ops] == ["ReduceMean", "Gemm", "Reformat"]
    assert found.notes == found.unmatched == ()
    narrow = found.network.counts({"depth": 5})
    shapes = {site.name: shape for site, shape in found.network.shapes(narrow)}
    assert (shapes["depth"].groups, shapes["depth"].in_channels) == (5, 5)


def test_branches_and_gates():
    found = cost(Branches(), 16)
    fused = patterns(found)
    assert fused["a"] == fused["b"] == fused["stem"] == "conv+bias+relu"
    assert fused["c"] == "conv+bias+silu"
    # The siblings are not merged by this builder. Where the operands of the concatenation go is up to it.
    assert found.merged == ()
    named = {node for use in found.layers for node in use.nodes} | set(found.in_place)
    assert "node_cat" in named
    assert found.unmatched == ()
    gated = [
        site for site in found.network.ops if "Mul" in dict(site.shape.attributes).get("ops", site.shape.op)
    ]
    assert gated, "the product of the gate is an operator, alone or in a fusion"
