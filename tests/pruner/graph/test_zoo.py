"""A fast part of the list of ``benchmarks/graph_zoo.py``: small networks of the kinds in it."""

import copy
import io
import random

import numpy as np
import pytest
import timm
import torch
import torchvision
from timm.models.res2net import Bottle2neck
from timm.models.resnet import ResNet
from timm.models.rexnet import RexNet
from torch import nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import BasicBlock

from latency_model.errors import ModelError
from pruner.graph import trace
from pruner.oracle import check
from pruner.surgery import remove


def res2net():
    return ResNet(
        Bottle2neck, (1, 1, 1, 1), num_classes=7, base_width=26, cardinality=1, block_args={"scale": 4}
    )


NETS = {
    "res2net": res2net,
    "rexnet": lambda: RexNet(num_classes=7, width_mult=0.5, depth_mult=0.25),
    "nfnet": lambda: timm.create_model("test_nfnet"),
    "convnext2": lambda: timm.create_model("test_convnext2"),
    "efficientnet_gn": lambda: timm.create_model("test_efficientnet_gn"),
}


def draw(graph, seed=0):
    rng = random.Random(seed)
    return {name: rng.sample(range(n), max(1, round(0.75 * n))) for name, n in graph.sizes().items()}


@pytest.mark.parametrize("name", NETS)
def test_every_convolution_can_be_cut(name):
    torch.manual_seed(0)
    model, x = NETS[name]().eval(), torch.randn(2, 3, 64, 64)
    graph = trace(model, x)
    cut = {site.name for site in graph.sites if site.inputs.terms or site.outputs.terms}
    assert {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)} <= cut
    assert check(model, graph, draw(graph), inputs=x).ok
    blocks = [block.name for block in graph.blocks][::2]
    assert check(model, graph, draw(graph, 1), blocks, inputs=x).ok


def test_what_is_cut_is_a_plain_module(tmp_path):
    """It is copied, saved, exported, compiled, trained, and runs in ONNX Runtime."""
    import onnxruntime

    torch.manual_seed(0)
    model = torchvision.models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5).eval()
    x = torch.randn(2, 3, 32, 32)
    graph = trace(model, x)
    cut = remove(model, graph, draw(graph), blocks=[graph.blocks[1].name])
    with torch.no_grad():
        expected = cut(x)
        assert torch.equal(copy.deepcopy(cut)(x), expected)
        stored = io.BytesIO()
        torch.save(cut, stored)
        stored.seek(0)
        assert torch.equal(torch.load(stored, weights_only=False)(x), expected)
        torch.testing.assert_close(torch.export.export(cut, (x,)).module()(x), expected)
        torch.testing.assert_close(torch.compile(cut, backend="eager")(x), expected)
    path = str(tmp_path / "cut.onnx")
    torch.onnx.export(cut, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (values,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    np.testing.assert_allclose(values, expected.numpy(), rtol=1e-3, atol=1e-5)
    cut.train()(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in cut.parameters())


def backbone_and_head(model, images):
    return model.head(list(model.backbone(images).values()))


def test_a_detector_is_captured_through_forward_fn_and_runs_whole():
    torch.manual_seed(0)
    # its frozen batch norms compute their scale and shift from four buffers
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    anchors = AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((1.0,),) * 5)
    model = RetinaNet(backbone, num_classes=3, anchor_generator=anchors, min_size=64, max_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    with pytest.raises(ModelError, match=r"RetinaNet at .*: .*forward_fn"):
        trace(model, [images[0], images[1]])
    graph = trace(model, images, forward_fn=backbone_and_head)
    cut = {site.name for site in graph.sites if site.inputs.terms or site.outputs.terms}
    assert {path for path, module in model.named_modules() if isinstance(module, nn.Conv2d)} <= cut
    result = check(model, graph, draw(graph), inputs=images, forward_fn=backbone_and_head)
    assert result.ok and result.outputs == 2
    small = remove(model, graph, draw(graph))
    assert {"boxes", "scores", "labels"} <= set(small(list(images))[0])


def test_several_arguments_of_many_kinds():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
            self.head = nn.Conv2d(10, 2, 1)

        def forward(self, image, extra, *, scale=1.0, depth=None):
            left = self.left(image + extra["shift"][0]).relu()
            return {"out": (self.head(torch.cat([left, self.right(depth)], 1)) * scale,), "none": None}

    model = Net()
    args = (torch.randn(1, 3, 8, 8), {"shift": [torch.randn(1, 3, 8, 8)]})
    kwargs = {"scale": 2.0, "depth": torch.randn(1, 1, 8, 8)}
    graph = trace(model, args, kwargs=kwargs)
    assert graph.sizes() == {"left": 6, "right": 4}
    keep = {"left": [0, 4], "right": [3]}
    assert check(model, graph, keep, inputs=args, kwargs=kwargs).outputs == 1
    assert check(model, graph, keep, inputs=args, kwargs=kwargs).ok


def test_mobilenet_v3_keeps_its_training_mode_and_frozen_parameters():
    model = torchvision.models.mobilenet_v3_small(num_classes=3).train()
    model.features[0][0].weight.requires_grad_(False)
    graph = trace(model, torch.randn(1, 3, 32, 32), trial=False)
    cut = remove(model, graph, draw(graph))
    assert cut.training and not cut.features[0][0].weight.requires_grad
