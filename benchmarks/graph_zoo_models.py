"""The networks of the graph benchmark: 51 classification and segmentation models, and 4 detectors.

All with random weights: nothing is downloaded. Imported by ``graph_zoo.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["DETECTORS", "NAMES", "build", "forward_fn", "inputs"]

_TORCHVISION = """
alexnet convnext_tiny deeplabv3_resnet50 densenet121 efficientnet_b0 efficientnet_v2_s fcn_resnet50 googlenet
inception_v3 lraspp_mobilenet_v3_large maxvit_t mnasnet1_0 mobilenet_v2 mobilenet_v3_large regnet_x_800mf
regnet_y_400mf resnet18 resnet50 resnext50_32x4d shufflenet_v2_x1_0 squeezenet1_1 swin_t vgg16_bn vit_b_16
wide_resnet50_2
"""
_TIMM = """
convnextv2_atto cspdarknet53 dla34 edgenext_x_small efficientformer_l1 fastvit_t8 ghostnet_100 hardcorenas_a
hrnet_w18_small inception_next_tiny levit_128 mixer_b16_224 mobilenetv4_conv_small mobileone_s0 nfnet_f0
poolformer_s12 repvgg_a0 res2net50_26w_4s resnet50d rexnet_100 selecsls42b seresnet50 tresnet_m
vit_tiny_patch16_224 vovnet39a xception41
"""
TORCHVISION, TIMM = _TORCHVISION.split(), _TIMM.split()
DETECTORS = ["fasterrcnn_resnet50_fpn", "fcos_resnet50_fpn", "retinanet_resnet50_fpn", "ssd300_vgg16"]
NAMES = [*TORCHVISION, *TIMM, *DETECTORS]

# the side of the square image where 64 is too small, or is not what the model is made for
_SIDES = {
    "inception_v3": 299,
    "maxvit_t": 224,
    "vit_b_16": 224,
    "efficientformer_l1": 224,
    "levit_128": 224,
    "mixer_b16_224": 224,
    "vit_tiny_patch16_224": 224,
    "fasterrcnn_resnet50_fpn": 256,
    "ssd300_vgg16": 300,
}


def build(name: str) -> nn.Module:
    """Return the model with random weights, in eval mode."""
    if name in TIMM:
        import timm

        return timm.create_model(name, pretrained=False).eval()
    from torchvision import models

    options: dict[str, Any] = {"weights": None}
    home: Any = models
    if name in DETECTORS:
        home, options["weights_backbone"] = models.detection, None
    elif hasattr(models.segmentation, name):
        home, options["weights_backbone"] = models.segmentation, None
    elif name in ("googlenet", "inception_v3"):
        options["init_weights"] = True
    model: nn.Module = getattr(home, name)(**options)
    return model.eval()


def inputs(name: str) -> Tensor:
    """Return a batch of two random images of the smallest side that the model works with."""
    side = _SIDES.get(name, 64)
    return torch.randn(2, 3, side, side)


def forward_fn(name: str) -> Callable[..., Any] | None:
    """Return what is captured of a detector: its backbone and heads, without the choice of boxes."""
    if name not in DETECTORS:
        return None
    return _two_stages if name.startswith("fasterrcnn") else _one_stage


def _one_stage(model: Any, images: Tensor) -> Any:
    features = list(model.backbone(images).values())
    return model.head(features)


def _two_stages(model: Any, images: Tensor) -> Any:
    features = list(model.backbone(images).values())
    # any window of a feature map has the shape of a pooled region
    windows = [features[level][:, :, :7, :7] for level in range(3)]
    boxes = [model.roi_heads.box_predictor(model.roi_heads.box_head(window)) for window in windows]
    return model.rpn.head(features), boxes
