"""One entry to every data layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latency_model.errors import DataError
from pruner.data.cifar_python import LAYOUTS, cifar_classes, cifar_source
from pruner.data.decode import LARGE, detect_format
from pruner.data.digits import CLASSES, digits_source
from pruner.data.folder import FolderSource, class_names, list_images
from pruner.data.parquet import find_shards, parquet_classes, parquet_source
from pruner.data.seeds import generator
from pruner.data.split import ImageSource, Split, Splits, stratified

__all__ = ["CIFAR_MEAN", "CIFAR_STD", "IMAGENET_MEAN", "IMAGENET_STD", "load_data"]

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_STATISTICS_IMAGES = 10_000


@dataclass(frozen=True)
class _Opened:
    train: ImageSource
    open_test: Callable[[], ImageSource]
    classes: tuple[str, ...]


def load_data(
    source: str | Path,
    *,
    validation: float = 0.1,
    seed: int = 0,
    image_size: int | None = None,
    quiet: bool = False,
    workers: int = 0,
) -> Splits:
    """Open a data set; validation images are cut out of the training set, the test set stays closed.

    Args:
        source: ``digits``, or a folder: Parquet (``train.parquet`` or ``train-*.parquet``, in it or in its
            ``data`` folder), ``cifar-10-batches-py`` or ``cifar-100-python``, or ``train/CLASS/…`` and
            ``val|test/CLASS/…`` with image files.
        validation: fraction of each class of the training set that is held out, 0 to below 1.
        seed: decides which images are held out.
        image_size: height and width to bring images to; by default their own, or 224 where they differ.
        quiet: no progress bar.
        workers: processes that decode image files, for folders of them; 0 for threads of this process.

    Raises:
        DataError: nothing usable at ``source``; the message says what was looked for.
    """
    if not 0 <= validation < 1:
        raise DataError(f"the validation fraction must be at least 0 and below 1, not {validation}")
    if image_size is not None and image_size < 1:
        raise DataError(f"the image size must be at least 1 pixel, not {image_size}")
    if workers < 0:
        raise DataError(f"the number of workers must be at least 0, not {workers}")
    opened = _open(source, image_size, quiet, workers)
    shape = opened.train.shape
    rest, cut = stratified(opened.train.labels, validation, seed=seed)
    mean, std = _statistics(opened.train, rest)

    def open_train() -> ImageSource:
        return opened.train

    def open_test() -> ImageSource:
        test = opened.open_test()
        _check_test(test, shape, opened.classes, source)
        return test

    return Splits(
        train=Split("train", open_train, mean=mean, std=std, indices=rest),
        validation=Split("validation", open_train, mean=mean, std=std, indices=cut),
        test=Split("test", open_test, mean=mean, std=std),
        classes=opened.classes,
        input_shape=shape,
        mean=mean,
        std=std,
        source=str(source),
    )


def _open(source: str | Path, image_size: int | None, quiet: bool, workers: int) -> _Opened:
    path = Path(source)
    if str(source) == "digits" and not path.exists():
        if image_size not in (None, 16):
            raise DataError(f"the digits come as 16x16 images only, not {image_size}x{image_size}")
        return _Opened(digits_source("train"), lambda: digits_source("test"), CLASSES)
    if not path.exists():
        raise DataError(f"no data at {path}; give a folder, or the name digits")
    if not path.is_dir():
        raise DataError(f"{path} is a file; give the folder that holds the training and test data")
    for name in LAYOUTS:
        for folder in (path, path / name):
            if folder.name == name and folder.is_dir():
                return _open_cifar(folder, image_size)
    if shards := find_shards(path, "train"):
        return _open_parquet(path, shards, image_size, quiet)
    if (path / "train").is_dir():
        return _open_folder(path, image_size, workers)
    raise DataError(
        f"{path} holds no data set: looked for train.parquet, train-*.parquet, {', '.join(LAYOUTS)} "
        "and train/CLASS/ with images"
    )


def _open_cifar(folder: Path, image_size: int | None) -> _Opened:
    if image_size not in (None, 32):
        raise DataError(f"{folder} has 32x32 images only, not {image_size}x{image_size}")
    return _Opened(cifar_source(folder, "train"), lambda: cifar_source(folder, "test"), cifar_classes(folder))


def _open_parquet(path: Path, shards: tuple[Path, ...], image_size: int | None, quiet: bool) -> _Opened:
    train, form = parquet_source(shards, image_size=image_size, quiet=quiet)

    def open_test() -> ImageSource:
        test = find_shards(path, "test", "validation", "val")
        if not test:
            raise DataError(f"{path} has no test set: looked for test.parquet and test-*.parquet")
        return parquet_source(test, image_size=image_size, form=form, quiet=quiet)[0]

    return _Opened(train, open_test, parquet_classes(shards[0], train.labels))


def _open_folder(path: Path, image_size: int | None, workers: int) -> _Opened:
    classes = class_names(path / "train")
    if not classes:
        raise DataError(f"{path / 'train'} has no class folders; images belong in train/CLASS/")
    files, labels = list_images(path / "train", classes)
    # Some from every class: one class may happen to hold only grey images, or only one size.
    spread = [files[i] for i in torch.linspace(0, len(files) - 1, min(64, len(files))).long().tolist()]
    form = detect_format(spread, where=str(path / "train"), image_size=image_size)

    def open_test() -> ImageSource:
        for name in ("test", "val", "validation"):
            if (path / name).is_dir():
                return FolderSource(*list_images(path / name, classes), form, processes=workers)
        raise DataError(f"{path} has no test set: looked for the folders test, val and validation")

    return _Opened(FolderSource(files, labels, form, processes=workers), open_test, classes)


def _check_test(
    test: ImageSource, shape: tuple[int, int, int], classes: tuple[str, ...], source: str | Path
) -> None:
    if test.shape != shape:
        ours, theirs = ("x".join(map(str, s)) for s in (shape, test.shape))
        raise DataError(f"the training images of {source} are {ours} but its test images {theirs}")
    if len(test.labels) and int(test.labels.max()) >= len(classes):
        raise DataError(
            f"the test set of {source} has the label {int(test.labels.max())}, but training has only "
            f"{len(classes)} classes"
        )


def _statistics(source: ImageSource, indices: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if source.shape == (3, 32, 32):
        return CIFAR_MEAN, CIFAR_STD
    if source.shape[0] == 3 and min(source.shape[1:]) >= LARGE:
        return IMAGENET_MEAN, IMAGENET_STD
    if len(indices) > _STATISTICS_IMAGES:
        order = torch.randperm(len(indices), generator=generator("statistics"))
        indices = indices[order[:_STATISTICS_IMAGES].sort().values]
    count, total, squares = 0, torch.zeros(source.shape[0]), torch.zeros(source.shape[0])
    total, squares = total.double(), squares.double()
    for part in torch.split(indices, 1000):
        pixels = source.read(part, None).double() / 255
        count += pixels[:, 0].numel()
        total += pixels.sum((0, 2, 3))
        squares += pixels.square().sum((0, 2, 3))
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=1e-8).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
