"""The random resized crop of photographs."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["crop_box"]


def crop_box(width: int, height: int, draws: Sequence[float]) -> tuple[float, float, float, float]:
    """Return (left, top, right, bottom) of a random crop of 8 to 100 % of the area, aspect 3:4 to 4:3.

    The training crop of Szegedy et al., "Going deeper with convolutions" (2015). A crop that does not fit
    is cut at the image's border rather than drawn again, so that every image needs the same draws.
    """
    area, aspect, x, y = (float(value) for value in draws[:4])
    target = width * height * (0.08 + 0.92 * area)
    ratio = (3 / 4) ** (1 - 2 * aspect)
    crop_width = min(float(width), (target * ratio) ** 0.5)
    crop_height = min(float(height), (target / ratio) ** 0.5)
    left, top = x * (width - crop_width), y * (height - crop_height)
    return left, top, left + crop_width, top + crop_height
