"""Small networks of the shapes that channel graphs are about."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(i, o, k=3, **options):
    return nn.Sequential(
        nn.Conv2d(i, o, k, padding=k // 2, bias=False, **options), nn.BatchNorm2d(o), nn.ReLU()
    )


class Basic(nn.Module):
    def __init__(self, i, o, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or i != o:
            self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class CifarResNet(nn.Module):
    def __init__(self, depth=2, widths=(16, 32, 64)):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0])
        width = widths[0]
        for stage, after in enumerate(widths):
            blocks = [
                Basic(width if b == 0 else after, after, 2 if stage and b == 0 else 1) for b in range(depth)
            ]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            width = after
        self.fc = nn.Linear(width, 10)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))


class PadShortcut(nn.Module):
    """The parameter-free shortcut of the first ResNets: a strided slice, padded with zero channels."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.branch = nn.Sequential(conv(8, 12), nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16))
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(self.branch(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv(3, 8), nn.MaxPool2d(2), conv(8, 12), nn.AdaptiveAvgPool2d(7))
        self.classifier = nn.Sequential(nn.Linear(12 * 49, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5))

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1) for i in range(3))
        self.fc = nn.Linear(26, 5)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SqueezeExcite(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.down, self.up = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    def __init__(self, i, o, multiplier=1):
        super().__init__()
        wide = 3 * i
        self.body = nn.Sequential(
            conv(i, wide, 1),
            conv(wide, wide * multiplier, groups=wide),
            SqueezeExcite(wide * multiplier),
            nn.Conv2d(wide * multiplier, o, 1),
            nn.BatchNorm2d(o),
        )
        self.add = i == o

    def forward(self, x):
        return x + self.body(x) if self.add else self.body(x)


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 12)
        self.branches = nn.ModuleList(
            nn.Sequential(conv(6, 6, 1), conv(6, 6, groups=6), conv(6, 6, 1)) for _ in range(2)
        )
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = torch.cat([left, branch(right)], 1)
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """A spatial map of one channel, a channel scale parameter, and a PReLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.map, self.act = conv(3, 8), nn.Conv2d(8, 1, 3, padding=1), nn.PReLU(8)
        self.scale = nn.Parameter(torch.randn(8, 1, 1))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.act(self.stem(x)) * self.scale
        return self.head(x * torch.sigmoid(self.map(x)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            conv(3, 16, 1), conv(16, 24, groups=4), conv(24, 24, groups=24), nn.ConvTranspose2d(24, 10, 2, 2)
        )
        self.up = nn.ConvTranspose2d(10, 12, 2, 2, groups=2)
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x):
        return self.head(F.relu(self.up(F.relu(self.body(x)))))


class SubPixel(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.tail = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x):
        return self.tail(F.relu(F.pixel_shuffle(self.body(x), 2)))


class Shared(nn.Module):
    """One module called twice, and one module under two names."""

    def __init__(self):
        super().__init__()
        self.stem, self.twice = conv(3, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.alias, self.head = self.twice, nn.Conv2d(8, 4, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(F.relu(self.alias(F.relu(self.twice(F.relu(self.twice(x)))))))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(1, 8)
        self.wide, self.layer_norm, self.head = nn.Conv2d(8, 12, 1), nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.wide(F.gelu(self.norm(self.stem(x)))).permute(0, 2, 3, 1)
        return self.head(self.layer_norm(x)).mean((1, 2))


class Several(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.join = conv(3, 8), conv(3, 6), conv(14, 10)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, a, b):
        x = self.join(torch.cat([self.left(a), self.right(b)], 1))
        return {"out": self.head(x), "also": (self.head(x).mean(),)}
