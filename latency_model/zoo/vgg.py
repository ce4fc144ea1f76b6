"""VGG-16 with batch norm for 32x32 images (Simonyan and Zisserman, arXiv 1409.1556), one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["SmallVgg", "vgg16_cifar"]

_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


class SmallVgg(nn.Module):
    """3x3 convolutions with batch norm and ReLU; a 0 in ``layout`` is a 2x2 max pool."""

    def __init__(self, *, layout: tuple[int, ...] = _VGG16, classes: int = 10) -> None:
        super().__init__()
        self.input_shape = (3, 32, 32)
        self.classes = classes
        layers: list[nn.Module] = []
        channels = self.input_shape[0]
        for width in layout:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of shape (batch, classes)."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def vgg16_cifar() -> SmallVgg:
    """Return VGG-16-BN for CIFAR."""
    return SmallVgg()
