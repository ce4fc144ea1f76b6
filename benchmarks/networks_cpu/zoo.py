"""The networks of this benchmark: torchvision families at random widths, each from one seed.

A network is a torchvision model whose channel graph is captured, whose channel groups each get a random count
(of every second network multiples of 8), and which is cut to these counts: a small real network, with concats,
additions, grouped and depthwise convolutions as the family has them.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision
from torch import nn
from torchvision.models.densenet import DenseNet
from torchvision.models.resnet import Bottleneck, ResNet

from pruner.graph import ChannelGraph, trace
from pruner.surgery import remove

sys.path.append(str(Path(__file__).parents[2]))  # the repository's root

from benchmarks.untrained import biased

__all__ = ["FAMILIES", "Family", "Wanted", "build", "wanted"]


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one family, the image sizes and batches to choose from, and the range of its mean width."""

    makers: tuple[Callable[[], nn.Module], ...]
    sizes: tuple[int, ...]
    batches: tuple[int, ...] = (1, 2, 4, 8)
    width: tuple[float, float] = (0.3, 0.95)
    count: int = 9


def _model(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(**options)


def _googlenet() -> nn.Module:
    return torchvision.models.googlenet(aux_logits=False, init_weights=False)


def _resnet(block: type, *layers: int, **options: int) -> Callable[[], nn.Module]:
    return lambda: ResNet(block, list(layers), **options)  # type: ignore[arg-type]


def _densenet(*blocks: int) -> Callable[[], nn.Module]:
    return lambda: DenseNet(32, blocks, 64)  # type: ignore[arg-type]


# Sizes and batches are chosen so that a network takes some 2 to 40 ms on one core, numbers of networks so that
# the whole takes about an hour. The DenseNets, and half of the ResNets with bottlenecks and of the ResNeXts, are
# torchvision's classes with fewer layers. VGGs stay at 224 pixels, where their 7x7 pooling does nothing.
FAMILIES: dict[str, Family] = {
    "vgg_bn": Family((_model("vgg11_bn"), _model("vgg13_bn")), (224,), (1, 2), (0.2, 0.45), count=8),
    "resnet_basic": Family((_model("resnet18"), _model("resnet34")), (64, 96, 128, 160)),
    "resnet_bottleneck": Family((_resnet(Bottleneck, 2, 2, 2, 2), _model("resnet50")), (64, 96, 128, 160)),
    "resnext": Family(
        (
            _resnet(Bottleneck, 2, 2, 2, 2, groups=32, width_per_group=4),
            _model("resnext50_32x4d"),
        ),
        (64, 96, 128),
        (1, 2, 4),
    ),
    "regnet": Family((_model("regnet_x_400mf"), _model("regnet_y_400mf")), (96, 128, 160, 224), (1, 2, 4)),
    "mobilenet_v2": Family((_model("mobilenet_v2"),), (96, 128, 160, 224)),
    "mobilenet_v3": Family(
        (_model("mobilenet_v3_small"), _model("mobilenet_v3_large")), (96, 128, 160, 224), count=7
    ),
    "densenet": Family((_densenet(3, 4, 6, 4), _densenet(4, 6, 8, 6)), (64, 96, 128), (1, 2, 4), count=7),
    "googlenet": Family((_googlenet,), (96, 128, 160, 224), (1, 2, 4), count=7),
    "squeezenet": Family((_model("squeezenet1_0"), _model("squeezenet1_1")), (96, 128, 160, 224)),
    "shufflenet_v2": Family(
        (_model("shufflenet_v2_x1_0"), _model("shufflenet_v2_x1_5")), (128, 160, 224), count=7
    ),
    "mnasnet": Family((_model("mnasnet0_75"), _model("mnasnet1_0")), (96, 128, 160, 224)),
    "efficientnet": Family((_model("efficientnet_b0"),), (96, 128, 160), (1, 2, 4), count=5),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """One network of a family, settled by its place in the family alone."""

    family: str
    index: int
    batch: int = field(init=False, default=0)
    size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        family, place = FAMILIES[self.family], random.Random(f"{self.family} {self.index} place")
        object.__setattr__(self, "batch", place.choice(family.batches))
        object.__setattr__(self, "size", place.choice(family.sizes))

    @property
    def aligned(self) -> bool:
        """Whether the channel counts are multiples of 8, as far as the groups allow."""
        return self.index % 2 == 0

    @property
    def name(self) -> str:
        """Family, place, batch and image size."""
        kind = "aligned" if self.aligned else "any"
        return f"{self.family}-{self.index:02d}-{kind}-b{self.batch}-{self.size}px"


def wanted(families: list[str] | None = None, *, scale: float = 1.0) -> list[Wanted]:
    """Return the networks, family by family; ``scale`` shrinks or grows the number of each."""
    return [
        Wanted(name, index)
        for name in families or list(FAMILIES)
        for index in range(round(FAMILIES[name].count * scale))
    ]


def build(network: Wanted) -> nn.Module:
    """Return the network in evaluation mode, with norms of random values."""
    family = FAMILIES[network.family]
    rng = random.Random(f"{network.family} {network.index} widths")
    torch.manual_seed(network.index)
    # Over pairs, so that aligned and unaligned networks have the same models.
    maker = network.index // 2 % len(family.makers)
    model, graph = family.makers[maker]().eval(), _graph(network.family, maker)
    mean, keep = rng.uniform(*family.width), {}
    for group, size in graph.sizes().items():
        share = min(1.0, max(0.1, rng.uniform(mean - 0.25, mean + 0.25)))
        count = max(1, round(share * size))
        if network.aligned and size >= 8:
            count = min(size, max(8, 8 * round(count / 8)))
        keep[group] = sorted(rng.sample(range(size), count))
    return biased(remove(model, graph, keep))


@functools.cache
def _graph(family: str, maker: int) -> ChannelGraph:
    """Return the channel graph of a model, which does not depend on the size of the image."""
    return trace(FAMILIES[family].makers[maker]().eval(), torch.randn(2, 3, 64, 64))
