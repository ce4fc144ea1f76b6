"""Parquet files as Hugging Face lays them out: an image column of encoded bytes and a label column."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from latency_model.errors import DataError
from pruner.data.augment import crop_and_flip
from pruner.data.decode import ImageFormat, decode, decode_all, detect_format, workers
from pruner.data.split import ImageSource, MemorySource

__all__ = ["ParquetSource", "find_shards", "parquet_classes", "parquet_source"]

_IMAGES = ("img", "image")
_LABELS = ("label", "fine_label")
_MEMORY_BYTES = 2_000_000_000
_WINDOW_ROWS = 4096
_CACHED_GROUPS = 64


def find_shards(folder: Path, *parts: str) -> tuple[Path, ...]:
    """Return the files of the first of ``parts`` that ``folder`` or its ``data`` folder has, sorted."""
    for part in parts:
        for place in (folder, folder / "data"):
            files = [place / f"{part}.parquet", *sorted(place.glob(f"{part}-*.parquet"))]
            if present := tuple(path for path in files if path.is_file()):
                return present
    return ()


@dataclass(frozen=True)
class _Shard:
    path: Path
    file: Any
    image: str
    label: str


def _open(path: Path) -> _Shard:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is not a readable Parquet file ({reason}); fetch it again") from error
    names = file.schema_arrow.names
    chosen = [next((name for name in known if name in names), "") for known in (_IMAGES, _LABELS)]
    if not all(chosen):
        raise DataError(
            f"{path} needs an image column ({' or '.join(_IMAGES)}) and a label column "
            f"({' or '.join(_LABELS)}); it has {', '.join(names)}"
        )
    return _Shard(path, file, *chosen)


def _encoded(shard: _Shard, column: Any) -> list[bytes]:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_struct(array.type):
        if "bytes" not in [array.type.field(i).name for i in range(array.type.num_fields)]:
            raise DataError(f"column {shard.image} of {shard.path} has no field 'bytes' with encoded images")
        array = pc.struct_field(array, "bytes")
    if array.null_count:
        raise DataError(
            f"{shard.path} holds {array.null_count} images without bytes; embed the images in the file"
        )
    if not (pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type)):
        raise DataError(f"column {shard.image} of {shard.path} holds {array.type}, not encoded images")
    values: list[bytes] = array.to_pylist()
    return values


def _guarded(shard: _Shard, read: Any, *args: Any) -> Any:
    try:
        return read(*args)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{shard.path} is damaged ({reason}); fetch it again") from error


def parquet_source(
    paths: tuple[Path, ...],
    *,
    image_size: int | None,
    form: ImageFormat | None = None,
    quiet: bool = False,
    memory_bytes: int = _MEMORY_BYTES,
) -> tuple[ImageSource, ImageFormat]:
    """Return the images of all shards, decoded in memory where that takes less than ``memory_bytes``.

    ``form`` fixes the format (a test set has the training set's); without it the first images decide.
    """
    shards = tuple(_open(path) for path in paths)
    columns = [_guarded(s, lambda s=s: s.file.read(columns=[s.label]).column(0)) for s in shards]
    if any(column.null_count for column in columns):
        raise DataError(f"{paths[0]}: some rows have no label; give a labelled data set")
    labels = torch.cat([torch.from_numpy(column.to_numpy().astype(np.int64)) for column in columns])
    if not len(labels):
        raise DataError(f"{paths[0]} holds no images; give a data set that has some")
    if form is None:
        first = next(shard for shard in shards if shard.file.metadata.num_rows)
        head = next(first.file.iter_batches(batch_size=64, columns=[first.image]))
        form = detect_format(_encoded(first, head.column(0)), where=str(first.path), image_size=image_size)
    if len(labels) * form.channels * form.height * form.width > memory_bytes:
        return ParquetSource(shards, labels, form), form
    images = [
        decode_all(encoded, len(encoded), form, where=shard.path.name, quiet=quiet)
        for shard in shards
        for encoded in [
            _encoded(shard, _guarded(shard, lambda s=shard: s.file.read(columns=[s.image])).column(0))
        ]
    ]
    return MemorySource(torch.cat(images) if len(images) > 1 else images[0], labels), form


def parquet_classes(path: Path, labels: Tensor) -> tuple[str, ...]:
    """Return the class names from the file's metadata, or the labels' numbers where it has none."""
    shard = _open(path)
    metadata = shard.file.schema_arrow.metadata or {}
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = tuple(str(name) for name in features[shard.label]["names"])
    except (KeyError, TypeError, ValueError):
        names = ()
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise DataError(
            f"{path} has the label {low}, which marks unlabelled images; give a labelled data set"
        )
    return names if len(names) > high else tuple(str(number) for number in range(high + 1))


@dataclass(frozen=True, eq=False)
class ParquetSource:
    """Images too many for memory, read and decoded row group by row group.

    A random order shuffles the row groups, then the rows inside windows of about 4,096: neighbours stay near
    each other, and each row group is read once an epoch.
    """

    shards: tuple[_Shard, ...]
    labels: Tensor
    form: ImageFormat
    streams: bool = True
    _groups: list[tuple[_Shard, int, int, int]] = field(init=False, default_factory=list)
    _cache: OrderedDict[int, list[bytes]] = field(init=False, default_factory=OrderedDict)
    _lock: Any = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        start = 0
        for shard in self.shards:
            for number in range(shard.file.metadata.num_row_groups):
                stop = start + shard.file.metadata.row_group(number).num_rows
                self._groups.append((shard, number, start, stop))
                start = stop

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        return self.form.shape

    def _rows(self, group: int) -> list[bytes]:
        shard, number, _, _ = self._groups[group]
        if group not in self._cache:
            read = _guarded(shard, lambda: shard.file.read_row_group(number, columns=[shard.image]))
            self._cache[group] = _encoded(shard, read.column(0))
        self._cache.move_to_end(group)
        cached = sum(self._groups[other][3] - self._groups[other][2] for other in self._cache)
        while len(self._cache) > 1 and (cached > 2 * _WINDOW_ROWS or len(self._cache) > _CACHED_GROUPS):
            dropped, rows = self._cache.popitem(last=False)
            del dropped
            cached -= len(rows)
        return self._cache[group]

    def _group_of(self, indices: Tensor) -> Tensor:
        stops = torch.tensor([stop for _, _, _, stop in self._groups])
        return torch.searchsorted(stops, indices, right=True)

    def read(self, indices: Tensor, draws: Tensor | None) -> Tensor:
        """Read the row groups that hold the images, and decode on all cores."""
        groups = self._group_of(indices).tolist()
        with self._lock:
            encoded = [
                self._rows(group)[index - self._groups[group][2]]
                for group, index in zip(groups, indices.tolist(), strict=True)
            ]
        resized = draws is not None and self.form.large

        def one(position: int) -> np.ndarray:
            draw = draws[position].tolist() if draws is not None and resized else None
            where = f"{self.shards[0].path.parent}, row {int(indices[position])}"
            return decode(encoded[position], self.form, where=where, draws=draw)

        with ThreadPoolExecutor(workers()) as pool:
            images = torch.from_numpy(np.stack(list(pool.map(one, range(len(encoded))))))
        if draws is None:
            return images
        if resized:
            return torch.where((draws[:, 4] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
        return crop_and_flip(images, draws)

    def order(self, indices: Tensor, random: torch.Generator) -> Tensor:
        """Return ``indices`` shuffled by row groups and inside windows of row groups."""
        groups = self._group_of(indices)
        rank = torch.randperm(len(self._groups), generator=random)
        by_group = indices[torch.argsort(rank[groups], stable=True)]
        windows = torch.split(by_group, _WINDOW_ROWS)
        return torch.cat([window[torch.randperm(len(window), generator=random)] for window in windows])
