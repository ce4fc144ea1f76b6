"""Encoded images (JPEG, PNG …) to uint8 tensors, on all cores."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from latency_model.console import progress
from latency_model.errors import DataError
from pruner.data.crop import crop_box

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LARGE", "ImageFormat", "decode", "decode_all", "decode_files", "detect_format", "workers"]

# From this size up images are photographs: evaluated on the middle 7/8, trained on random resized crops.
LARGE = 96
_DEFAULT_SIZE = 224
_CHUNK = 256
_SAMPLE = 64

Encoded = bytes | Path


@dataclass(frozen=True, slots=True)
class ImageFormat:
    """What every image of a data set is brought to: 1 or 3 channels, height, width."""

    channels: int
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self.channels, self.height, self.width

    @property
    def large(self) -> bool:
        """Whether the images are treated as photographs."""
        return min(self.height, self.width) >= LARGE


def workers() -> int:
    """Return how many threads decode: one for each core that this process may use, its siblings' left to them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _open(encoded: Encoded, where: str) -> Image.Image:
    try:
        image = Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded))
        image.load()
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        name = encoded if isinstance(encoded, Path) else where
        raise DataError(f"{name} is not a readable image ({error}); replace or remove it") from error
    return image


def detect_format(samples: Iterable[Encoded], *, where: str, image_size: int | None) -> ImageFormat:
    """Return the format for a data set from its first images.

    Without ``image_size`` the images keep their size where all samples agree; otherwise it is 224.
    All grey samples give one channel, anything else three.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    channels = 1
    for number, sample in zip(range(_SAMPLE), samples, strict=False):
        image = _open(sample, f"{where}, image {number}")
        sizes[image.size] += 1
        if image.mode not in ("1", "L", "I", "I;16", "F"):
            channels = 3
    if not sizes:
        raise DataError(f"{where} holds no images; give a data set that has some")
    if image_size is not None:
        return ImageFormat(channels, image_size, image_size)
    if len(sizes) > 1:
        return ImageFormat(channels, _DEFAULT_SIZE, _DEFAULT_SIZE)
    width, height = next(iter(sizes))
    return ImageFormat(channels, height, width)


def decode(
    encoded: Encoded, form: ImageFormat, *, where: str, draws: Sequence[float] | None = None
) -> np.ndarray:
    """Return one image as (channels, height, width) uint8.

    An image of another size is scaled (bilinear, antialiased) and cut: with ``draws`` a random resized
    crop, without the middle (7/8 of the shorter side for photographs).
    """
    image = _open(encoded, where)
    mode = "RGB" if form.channels == 3 else "L"
    if image.mode != mode:
        image = image.convert(mode)
    size = (form.width, form.height)
    if draws is not None:
        image = image.resize(size, Image.Resampling.BILINEAR, box=crop_box(*image.size, draws))
    elif image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, box=_middle(image.size, form))
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def _middle(size: tuple[int, int], form: ImageFormat) -> tuple[float, float, float, float]:
    width, height = size
    scale = min(width / form.width, height / form.height) * (0.875 if form.large else 1.0)
    crop_width, crop_height = form.width * scale, form.height * scale
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height


def decode_files(
    form: ImageFormat, paths: Sequence[Path], crops: Sequence[Sequence[float] | None]
) -> np.ndarray:
    """Return image files as (count, channels, height, width) uint8; a crop is the ``draws`` of ``decode``."""
    return np.stack(
        [decode(path, form, where="", draws=crop) for path, crop in zip(paths, crops, strict=True)]
    )


def decode_all(
    encoded: Sequence[Encoded] | Callable[[int], Encoded],
    count: int,
    form: ImageFormat,
    *,
    where: str,
    quiet: bool = False,
) -> Tensor:
    """Return all images as one (count, channels, height, width) uint8 tensor; shows progress on stderr."""
    import torch  # not above: processes that only decode do without it

    images = torch.empty((count, *form.shape), dtype=torch.uint8)
    target = images.numpy()
    get = encoded if callable(encoded) else encoded.__getitem__

    def work(start: int) -> int:
        stop = min(start + _CHUNK, count)
        for row in range(start, stop):
            target[row] = decode(get(row), form, where=f"{where}, row {row}")
        return stop - start

    with (
        progress(quiet=quiet or count < 10_000) as bar,
        ThreadPoolExecutor(workers()) as pool,
    ):
        task = bar.add_task(f"decode {where}", total=count, note="")
        for done in pool.map(work, range(0, count, _CHUNK)):
            bar.advance(task, done)
    return images
