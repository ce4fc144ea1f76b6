"""Residual networks for small images, after He et al., arXiv 1512.03385, section 4.2, with projections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["BasicBlock", "SmallResNet", "cifar_resnet", "digits_resnet"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ``relu(branch(x) + skip(x))``.

    Where the shape changes the shortcut is a 1x1 convolution with batch norm, else the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; the spatial size shrinks by the stride."""
        branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(branch + skip)


class SmallResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks (``layer1``, ``layer2``, …), global average pool, linear classifier.

    ``input_shape`` is (channels, height, width). Every stage after the first halves the image.
    """

    def __init__(
        self, *, blocks: Sequence[int], widths: Sequence[int], input_shape: tuple[int, int, int], classes: int
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.classes = classes
        self.conv1 = nn.Conv2d(input_shape[0], widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels = widths[0]
        self._stages = []
        for index, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage = []
            for block in range(count):
                stage.append(BasicBlock(channels, width, stride=2 if index and not block else 1))
                channels = width
            name = f"layer{index + 1}"
            self.add_module(name, nn.Sequential(*stage))
            self._stages.append(name)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        x = torch.relu(self.bn1(self.conv1(x)))
        for name in self._stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def cifar_resnet(depth: int) -> SmallResNet:
    """Return the CIFAR ResNet of ``depth`` = 6n + 2: n blocks of 16, 32 and 64 channels."""
    count = (depth - 2) // 6
    return SmallResNet(blocks=(count,) * 3, widths=(16, 32, 64), input_shape=(3, 32, 32), classes=10)


def digits_resnet() -> SmallResNet:
    """Return the network of the demo: 16x16 digits, two blocks of 32 and two of 64 channels."""
    return SmallResNet(blocks=(2, 2), widths=(32, 64), input_shape=(1, 16, 16), classes=10)
