"""Four small networks, of the kinds that pruning methods trip over, and images that they can learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruner.data.split import MemorySource, Split, Splits

__all__ = ["NETWORKS", "Concatenating", "Depthwise", "Plain", "Residual", "images"]

CLASSES = 4
_SIZE = 8


def _conv(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class _Network(nn.Module):
    """What all four share: 1x8x8 images, four classes, a linear head on pooled features."""

    input_shape = (1, _SIZE, _SIZE)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        """Return the feature maps of (n, 1, 8, 8) images."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, 4)."""
        return self.head(self.features(x).mean((2, 3)))


class Plain(_Network):
    """Convolutions one after another."""

    def __init__(self) -> None:
        super().__init__(32)
        self.first, self.second, self.third = _conv(1, 16), _conv(16, 32, stride=2), _conv(32, 32)

    def features(self, x: Tensor) -> Tensor:
        """Return (n, 32, 4, 4)."""
        return self.third(self.second(self.first(x)))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride)
        self.conv = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(self.first(x))) + self.skip(x))


class Residual(_Network):
    """Two stages of residual blocks, each with a block that can be removed."""

    def __init__(self) -> None:
        super().__init__(32)
        self.stem = _conv(1, 16)
        self.stages = nn.Sequential(
            _Block(16, 16, 1), _Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 32, 1)
        )

    def features(self, x: Tensor) -> Tensor:
        """Return (n, 32, 4, 4)."""
        return self.stages(self.stem(x))


class Concatenating(_Network):
    """Each layer reads all layers before it, as in DenseNet, with a transition."""

    def __init__(self) -> None:
        super().__init__(32)
        self.stem = _conv(1, 16)
        self.layers = nn.ModuleList([_conv(16 + 8 * i, 8) for i in range(3)])
        self.transition = _conv(40, 24, kernel=1, stride=2)
        self.last = _conv(24, 8)

    def features(self, x: Tensor) -> Tensor:
        """Return (n, 32, 4, 4)."""
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        x = self.transition(x)
        return torch.cat([x, self.last(x)], 1)


class _Inverted(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 2 * inputs
        self.expand = _conv(inputs, inner, kernel=1)
        self.depthwise = _conv(inner, inner, stride=stride, groups=inner)
        self.project = nn.Sequential(nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Depthwise(_Network):
    """Inverted residuals with depthwise convolutions, as in MobileNetV2."""

    def __init__(self) -> None:
        super().__init__(24)
        self.stem = _conv(1, 16)
        self.blocks = nn.Sequential(_Inverted(16, 16, 1), _Inverted(16, 24, 2), _Inverted(24, 24, 1))

    def features(self, x: Tensor) -> Tensor:
        """Return (n, 24, 4, 4)."""
        return self.blocks(self.stem(x))


NETWORKS: dict[str, type[nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "concatenating": Concatenating,
    "depthwise": Depthwise,
}


class _Locked:
    """The test images: whoever opens them has failed."""

    def __call__(self) -> MemorySource:
        raise AssertionError("a method must not look at the test images")


def images(count: int = 96, *, seed: int = 0) -> Splits:
    """Return images of four kinds of stripes under noise, two thirds to train on; the test part cannot be opened."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    row, column = torch.meshgrid(torch.arange(_SIZE), torch.arange(_SIZE), indexing="ij")
    stripes = torch.stack([row % 2, column % 2, (row + column) % 2, row // 4]).float()
    pixels = 128 + 60 * (stripes[labels] - 0.5) + 25 * torch.randn(count, _SIZE, _SIZE, generator=random)
    source = MemorySource(pixels.clamp(0, 255).byte()[:, None], labels, flip=False)
    cut, mean, std = 2 * count // 3, (0.5,), (0.25,)
    return Splits(
        Split("train", lambda: source, mean=mean, std=std, indices=torch.arange(cut)),
        Split("validation", lambda: source, mean=mean, std=std, indices=torch.arange(cut, count)),
        Split("test", _Locked(), mean=mean, std=std),
        ("rows", "columns", "checks", "halves"),
        (1, _SIZE, _SIZE),
        mean,
        std,
    )
