"""The handwritten digits that scikit-learn ships: real data without a download."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F

from pruner.data.split import MemorySource, stratified

__all__ = ["CLASSES", "digits_source"]

CLASSES = tuple("0123456789")
_SIZE = 16
_TEST_FRACTION = 0.2


@cache
def digits_source(part: str) -> MemorySource:
    """Return the ``train`` (1,438) or ``test`` (359) digits, 1x16x16.

    The 8x8 originals (0..16, from E. Alpaydin and C. Kaynak's set) are scaled up bilinearly. The test part is
    the same 20 % of each digit whatever seed anything else uses.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    scaled = F.interpolate(pixels, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False)
    images = (scaled * 255).round().to(torch.uint8)
    labels = torch.tensor(bunch.target, dtype=torch.int64)
    train, test = stratified(labels, _TEST_FRACTION, seed=0)
    chosen = train if part == "train" else test
    return MemorySource(images[chosen], labels[chosen], flip=False)
