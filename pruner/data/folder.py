"""Image folders, ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``, read from disk batch by batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latency_model.errors import DataError, GharialError
from pruner.data.augment import crop_and_flip
from pruner.data.decode import ImageFormat, decode_files, workers

__all__ = ["FolderSource", "class_names", "list_images"]

_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"})


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Images on disk; photographs are trained on random resized crops, small images on shifted ones.

    They are decoded by threads, or by ``processes`` processes of their own: Python holds its lock for about a sixth
    of the time that a photograph takes, so that threads stop being faster at about six cores.
    """

    paths: tuple[Path, ...]
    labels: Tensor
    form: ImageFormat
    streams: bool = True
    processes: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.form.shape

    def read(self, indices: Tensor, draws: Tensor | None) -> Tensor:
        """Decode the images on all cores."""
        resized = draws is not None and self.form.large
        paths = [self.paths[index] for index in indices.tolist()]
        crops = draws.tolist() if draws is not None and resized else [None] * len(paths)
        images = torch.from_numpy(
            self._in_processes(paths, crops) if self.processes else self._in_threads(paths, crops)
        )
        if draws is None:
            return images
        if resized:
            return torch.where((draws[:, 4] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        return crop_and_flip(images, draws)

    def _in_threads(self, paths: Sequence[Path], crops: Sequence[Sequence[float] | None]) -> np.ndarray:
        with ThreadPoolExecutor(workers()) as pool:
            parts = pool.map(lambda path, crop: decode_files(self.form, [path], [crop]), paths, crops)
            return np.concatenate(list(parts))

    def _in_processes(self, paths: Sequence[Path], crops: Sequence[Sequence[float] | None]) -> np.ndarray:
        bounds = [len(paths) * part // self.processes for part in range(self.processes + 1)]
        parts = [(paths[a:b], crops[a:b]) for a, b in pairwise(bounds) if a < b]
        try:
            return np.concatenate(
                list(self._pool.map(partial(decode_files, self.form), *zip(*parts, strict=True)))
            )
        except BrokenExecutor as error:
            raise GharialError(
                f"a process that decodes images ended ({error}); there may be too little memory: give fewer --workers"
            ) from error

    @cached_property
    def _pool(self) -> ProcessPoolExecutor:
        # Spawned: a fork of a process with threads can wait for ever for a lock that one of them held.
        return ProcessPoolExecutor(self.processes, mp_context=get_context("spawn"))

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
