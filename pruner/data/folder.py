"""Image folders, ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, read from disk batch by batch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latency_model.errors import DataError
from pruner.data.augment import crop_and_flip
from pruner.data.decode import ImageFormat, decode, workers

__all__ = ["FolderSource", "class_names", "list_images"]

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Images on disk; photographs are trained on random resized crops, small images on shifted ones."""

    paths: tuple[Path, ...]
    labels: Tensor
    form: ImageFormat
    streams: bool = True

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.form.shape

    def read(self, indices: Tensor, draws: Tensor | None) -> Tensor:
        """Decode the images on all cores."""
        resized = draws is not None and self.form.large

        def one(item: tuple[int, int]) -> np.ndarray:
            position, index = item
            draw = draws[position] if draws is not None and resized else None
            return decode(self.paths[index], self.form, where="", draws=draw)

        with ThreadPoolExecutor(workers()) as pool:
            images = torch.from_numpy(np.stack(list(pool.map(one, enumerate(indices.tolist())))))
        if draws is None:
            return images
        if resized:
            return torch.where((draws[:, 4] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        return crop_and_flip(images, draws)

    def order(self, indices: Tensor, random: torch.Generator) -> Tensor:
        """Return ``indices`` in a random order, all orders equally likely."""
        return indices[torch.randperm(len(indices), generator=random)]


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the class folders in ``folder``, sorted; hidden ones do not count."""
    return tuple(
        sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    )


def list_images(folder: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, ...], Tensor]:
    """Return the image files below ``folder`` and their labels, in the order of classes and names.

    Raises ``DataError`` when the class folders are not ``classes`` or one is empty.
    """
    found = class_names(folder)
    if unknown := sorted(set(found) ^ set(classes)):
        raise DataError(
            f"{folder} and the training folder do not have the same classes: {unknown[0]!r} is in one only"
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = sorted(
            Path(where) / file
            for where, _, names in os.walk(folder / name)
            for file in names
            if Path(file).suffix.lower() in _EXTENSIONS
        )
        if not files:
            raise DataError(f"{folder / name} holds no images ({', '.join(sorted(_EXTENSIONS))})")
        paths += files
        labels += [label] * len(files)
    return tuple(paths), torch.tensor(labels, dtype=torch.int64)
