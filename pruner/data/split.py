"""Parts of a data set, and the batches that come out of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from latency_model.errors import DataError
from pruner.data.augment import DRAWS, crop_and_flip
from pruner.data.seeds import generator

__all__ = ["ImageSource", "MemorySource", "Split", "Splits", "part_of", "stratified"]

_READ_AHEAD = 3


class ImageSource(Protocol):
    """Labelled images that can be read by number."""

    @property
    def labels(self) -> Tensor:
        """(n,) int64."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""

    @property
    def streams(self) -> bool:
        """Whether reading takes long enough to be done ahead, in another thread."""

    def read(self, indices: Tensor, draws: Tensor | None) -> Tensor:
        """Return images as (n, channels, height, width) uint8, augmented by ``draws`` if given."""

    def order(self, indices: Tensor, random: torch.Generator) -> Tensor:
        """Return ``indices`` in a random order."""


@dataclass(frozen=True, eq=False)
class MemorySource:
    """Images held as one (n, channels, height, width) uint8 tensor."""

    images: Tensor
    labels: Tensor
    flip: bool = True
    streams: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def read(self, indices: Tensor, draws: Tensor | None) -> Tensor:
        """Return images as uint8, shifted and mirrored by ``draws`` if given."""
        images = self.images.index_select(0, indices)
        return images if draws is None else crop_and_flip(images, draws, flip=self.flip)

    def order(self, indices: Tensor, random: torch.Generator) -> Tensor:
        """Return ``indices`` in a random order, all orders equally likely."""
        return indices[torch.randperm(len(indices), generator=random)]


class Split:
    """One part of a data set: train, validation or test.

    The source is opened when the split is first asked for anything, so a test set costs nothing, and is not
    looked at, until someone evaluates on it.
    """

    def __init__(
        self,
        name: str,
        open_source: Callable[[], ImageSource],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        indices: Tensor | None = None,
    ) -> None:
        self.name = name
        self.mean = mean
        self.std = std
        self._open = open_source
        self._indices = indices

    @cached_property
    def source(self) -> ImageSource:
        """The images; opened on first use."""
        return self._open()

    @cached_property
    def indices(self) -> Tensor:
        """The numbers of this split's images in the source."""
        return torch.arange(len(self.source.labels)) if self._indices is None else self._indices

    @property
    def labels(self) -> Tensor:
        """(n,) int64, in the order of an unshuffled pass."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"Split({self.name!r})"

    def steps(self, batch_size: int, limit: int | None = None, *, world: int = 1) -> int:
        """Return how many batches ``batches`` yields."""
        return len(self.bounds(batch_size, limit, world=world))

    def bounds(self, batch_size: int, limit: int | None = None, *, world: int = 1) -> list[tuple[int, int]]:
        """Return (start, stop) of each batch in the order of the pass, all processes' parts together.

        A last batch with fewer images than 2, or than the ``world`` processes, joins the one before.
        """
        if batch_size < 1:
            raise DataError(f"a batch holds at least one image, not {batch_size}")
        bounds = [(start, min(start + batch_size, len(self))) for start in range(0, len(self), batch_size)]
        # Batch norm cannot train on one value per channel, and every process needs an image.
        if len(bounds) > 1 and bounds[-1][1] - bounds[-1][0] < max(2, world):
            bounds[-2:] = [(bounds[-2][0], bounds[-1][1])]
        return bounds if limit is None else bounds[:limit]

    def batches(
        self,
        batch_size: int,
        *,
        shuffle: bool,
        augment: bool,
        seed: int,
        epoch: int,
        limit: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (images, labels): normalised float32 (n, channels, height, width) and int64 (n,).

        Order and augmentation depend on ``seed`` and ``epoch`` alone, not on how far other iterators are or
        on the global random state. ``limit`` is a number of batches. The last batch may be smaller, or one
        image larger than ``batch_size``. Process ``rank`` of ``world`` gets its consecutive part of each batch, which
        in all processes together is the batch that one process gets; a part without images is left out.
        """
        bounds = self.bounds(batch_size, limit, world=world)
        order = self.indices
        if shuffle:
            order = self.source.order(order, generator("order", seed, epoch))
        random = generator("augment", seed, epoch)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        scale, shift = 1 / (255 * std), torch.tensor(self.mean).view(1, -1, 1, 1) / std

        def jobs() -> Iterator[tuple[Tensor, Tensor | None]]:
            for start, stop in bounds:
                count = stop - start
                draws = torch.rand(count, DRAWS, generator=random) if augment else None
                own = slice(*part_of(count, rank=rank, world=world))
                if own.start < own.stop:
                    yield order[start:stop][own], None if draws is None else draws[own]

        for indices, images in self._read(jobs()):
            yield images.to(torch.float32).mul_(scale).sub_(shift), self.source.labels[indices]

    def _read(self, jobs: Iterator[tuple[Tensor, Tensor | None]]) -> Iterator[tuple[Tensor, Tensor]]:
        source = self.source
        if not source.streams:
            for indices, draws in jobs:
                yield indices, source.read(indices, draws)
            return
        pool = ThreadPoolExecutor(1)
        ahead: deque[tuple[Tensor, Future[Tensor]]] = deque()
        try:
            for indices, draws in jobs:
                ahead.append((indices, pool.submit(source.read, indices, draws)))
                if len(ahead) >= _READ_AHEAD:
                    done, future = ahead.popleft()
                    yield done, future.result()
            while ahead:
                done, future = ahead.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set: training, validation (cut out of the training set) and test.

    ``input_shape`` is (channels, height, width); ``mean`` and ``std`` are per channel, of pixels in 0..1;
    ``source`` is where the data came from, as the user gave it.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str = ""

    def expect_classes(self, classes: int | None, *, model: str = "the model") -> None:
        """Raise ``DataError`` unless there are as many classes as the model has outputs."""
        if classes is None:
            raise DataError(
                f"the number of classes of {model} is not known; give a model that ends in logits"
            )
        if len(self.classes) != classes:
            raise DataError(
                f"{self.source or 'the data set'} has {len(self.classes)} classes but {model} tells "
                f"{classes} apart; give data and model of one task"
            )


def part_of(count: int, *, rank: int, world: int) -> tuple[int, int]:
    """Return (start, stop) of the part of 0..count-1 that belongs to process ``rank`` of ``world``.

    The parts are consecutive, complete, and differ in size by one at most.
    """
    return count * rank // world, count * (rank + 1) // world


def stratified(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Split 0..n-1 into (rest, cut): ``fraction`` of each class, at least one image of each if above 0.

    A class with a single image stays in the rest. Both parts are sorted, disjoint and complete.
    """
    random = generator("split", seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    if fraction > 0:
        for label in sorted(set(labels.tolist())):
            members = (labels == label).nonzero()[:, 0]
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            chosen[members[torch.randperm(len(members), generator=random)[:count]]] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]
