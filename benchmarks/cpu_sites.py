"""Convolutions of small and large residual networks, at shares of their widths: what CPU timing is tried on."""

from __future__ import annotations

from collections.abc import Sequence

from latency_model import ConvShape

__all__ = ["SITES", "configurations"]

SITES = (
    # in, out, size, kernel, stride, pattern: the residual networks for CIFAR, and larger ones
    (16, 16, 32, 3, 1, "conv+bias+relu"),
    (16, 16, 32, 3, 1, "conv+bias+add+relu"),
    (16, 32, 32, 3, 2, "conv+bias+relu"),
    (16, 32, 32, 1, 2, "conv+bias"),
    (32, 32, 16, 3, 1, "conv+bias+relu"),
    (32, 64, 16, 3, 2, "conv+bias+relu"),
    (64, 64, 8, 3, 1, "conv+bias+add+relu"),
    (64, 64, 56, 3, 1, "conv+bias+relu"),
    (64, 256, 56, 1, 1, "conv+bias+add+relu"),
    (256, 256, 14, 3, 1, "conv+bias+relu"),
)


def configurations(shares: Sequence[float]) -> list[ConvShape]:
    """Return each site at each of ``shares`` of both its widths, rounded down."""
    return [
        ConvShape(
            1, int(i * share), size, size, int(o * share), (k, k), (s, s), (k // 2,) * 4, pattern=pattern
        )
        for i, o, size, k, s, pattern in SITES
        for share in shares
    ]
