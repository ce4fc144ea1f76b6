"""Every layout gives the images that were put in, and every mistake one sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from latency_model.errors import DataError
from pruner.data import Split, load_data
from pruner.data.parquet import ParquetSource, parquet_source

SHARED = Path(__file__).parents[3].parent / "shared" / "data" / "cifar10"


def pictures(count: int, *, size: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def encode(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(
    path: Path, images: list[bytes], labels: list[int], *, image: str = "img", label: str = "label", **more
) -> None:
    table = pa.table(
        {
            image: pa.array([{"bytes": data, "path": ""} for data in images]),
            label: pa.array(labels, pa.int64()),
        }
    )
    names = more.pop("names", None)
    if names:
        features = {"info": {"features": {label: {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **more)


def raw(split: Split) -> torch.Tensor:
    """All pixels as uint8, out of the normalised batches."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (split.mean, split.std))
    batches = split.batches(4, shuffle=False, augment=False, seed=0, epoch=0)
    return torch.cat([((x * std + mean) * 255).round().to(torch.uint8) for x, _ in batches])


def nchw(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("layout", "image", "label"), [("plain", "img", "label"), ("data", "image", "fine_label")]
)
def test_parquet(tmp_path: Path, layout: str, image: str, label: str) -> None:
    train, test = pictures(20), pictures(6, seed=1)
    labels = [i % 2 for i in range(20)]
    folder = tmp_path if layout == "plain" else tmp_path / "data"
    options = {"image": image, "label": label, "names": ["cat", "dog"]}
    encoded = [encode(p) for p in train]
    if layout == "plain":
        write_parquet(folder / "train.parquet", encoded, labels, **options)
    else:
        write_parquet(folder / "train-00000-of-00002.parquet", encoded[:7], labels[:7], **options)
        write_parquet(folder / "train-00001-of-00002.parquet", encoded[7:], labels[7:], **options)
    write_parquet(folder / "test.parquet", [encode(p) for p in test], [1] * 6, **options)
    splits = load_data(tmp_path, validation=0.2)
    assert splits.classes == ("cat", "dog")
    assert splits.input_shape == (3, 32, 32)
    assert splits.mean == (0.4914, 0.4822, 0.4465)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (16, 4, 6)
    assert splits.validation.labels.tolist().count(0) == 2
    assert torch.equal(raw(splits.train), nchw(train)[splits.train.indices])
    assert torch.equal(raw(splits.test), nchw(test))
    together = torch.cat([splits.train.indices, splits.validation.indices])
    assert sorted(together.tolist()) == list(range(20))


def test_the_test_set_is_not_opened_before_it_is_asked_for(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [encode(p) for p in pictures(4)], [0, 1, 0, 1])
    (tmp_path / "test.parquet").write_bytes(b"no Parquet at all")
    splits = load_data(tmp_path, validation=0)
    assert len(splits.train) == 4
    assert len(splits.validation) == 0
    with pytest.raises(DataError, match=r"test\.parquet is not a readable Parquet file"):
        len(splits.test)


def test_streamed_parquet_equals_the_one_in_memory(tmp_path: Path) -> None:
    pixels = pictures(30, size=8)
    labels = [i % 3 for i in range(30)]
    for shard, rows in enumerate((slice(0, 13), slice(13, 30))):
        data = [encode(p) for p in pixels[rows]]
        write_parquet(tmp_path / f"train-{shard}.parquet", data, labels[rows], row_group_size=4)
    paths = tuple(sorted(tmp_path.glob("*.parquet")))
    memory, _ = parquet_source(paths, image_size=None)
    stream, _ = parquet_source(paths, image_size=None, memory_bytes=100)
    assert isinstance(stream, ParquetSource)
    order = torch.randperm(30)
    draws = torch.rand(30, 5)
    assert torch.equal(memory.read(order, None), stream.read(order, None))
    assert torch.equal(memory.read(order, draws), stream.read(order, draws))
    split = Split("train", lambda: stream, mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = [split.batches(7, shuffle=True, augment=True, seed=0, epoch=e) for e in (0, 0, 1)]
    first, again, other = (torch.cat([x for x, _ in batches]) for batches in seen)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    ordered = stream.order(torch.arange(30), torch.Generator().manual_seed(0))
    assert sorted(ordered.tolist()) == list(range(30))
    assert ordered.tolist() != list(range(30))


def write_cifar(folder: Path, *, hostile: bool = False) -> np.ndarray:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3072), dtype=np.uint8)
    for number, name in enumerate(["data_batch_1", *[f"data_batch_{i}" for i in range(2, 6)], "test_batch"]):
        part = pixels[number * 10 : number * 10 + 10]
        content = {b"data": part, b"labels": list(range(10)), b"batch_label": name.encode()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    if hostile:
        (folder / "data_batch_3").write_bytes(pickle.dumps({"data": os.getcwd, "labels": [0]}))
    meta = {b"label_names": [f"class {i}".encode() for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return pixels


@pytest.mark.parametrize("inside", [True, False])
def test_cifar_python_layout(tmp_path: Path, inside: bool) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    pixels = torch.from_numpy(write_cifar(folder)).view(-1, 3, 32, 32)
    splits = load_data(folder if inside else tmp_path, validation=0.2)
    assert splits.classes[3] == "class 3"
    assert (len(splits.train), len(splits.validation)) == (40, 10)
    assert torch.equal(raw(splits.train), pixels[splits.train.indices])
    assert torch.equal(raw(splits.test), pixels[50:])


def test_a_pickle_that_wants_more_than_arrays_is_refused(tmp_path: Path) -> None:
    write_cifar(tmp_path / "cifar-10-batches-py", hostile=True)
    with pytest.raises(DataError, match=r"data_batch_3 is not a CIFAR file \(asks for posix.getcwd"):
        load_data(tmp_path)


@pytest.mark.parametrize("attack", ["object array", "own type"])
def test_no_code_of_numpy_is_reached_from_a_pickle(tmp_path: Path, attack: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder)
    data = np.array([1, "x"], dtype=object) if attack == "object array" else np.float32(1)
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": data, "labels": [0]}, protocol=2))
    with pytest.raises(DataError, match="data_batch_1 is not a CIFAR file"):
        load_data(folder)


def write_tree(folder: Path, part: str, *, sizes: tuple[int, ...] = (12,), count: int = 6) -> None:
    for label, name in enumerate(("ant", "bee")):
        (folder / part / name).mkdir(parents=True)
        for number in range(count):
            pixels = pictures(1, size=sizes[number % len(sizes)], seed=number + 100 * label)[0]
            (folder / part / name / f"{number}.png").write_bytes(encode(pixels))


def test_image_folder_is_streamed(tmp_path: Path) -> None:
    write_tree(tmp_path, "train")
    write_tree(tmp_path, "val", count=2)
    splits = load_data(tmp_path, validation=0.34)
    assert splits.classes == ("ant", "bee")
    assert splits.input_shape == (3, 12, 12)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 4, 4)
    assert splits.train.source.streams
    assert torch.equal(raw(splits.test)[0], nchw(pictures(1, size=12, seed=0))[0])
    every = [x for x, _ in splits.train.batches(3, shuffle=True, augment=True, seed=0, epoch=0)]
    assert [len(x) for x in every] == [3, 3, 2]
    (tmp_path / "train" / "bee" / "0.png").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"bee/0\.png is not a readable image"):
        raw(splits.train), raw(splits.validation)


def test_photographs_of_different_sizes_become_224_and_are_cropped_at_random(tmp_path: Path) -> None:
    write_tree(tmp_path, "train", sizes=(150, 260), count=2)
    splits = load_data(tmp_path, validation=0)
    assert splits.input_shape == (3, 224, 224)
    assert splits.mean == (0.485, 0.456, 0.406)

    def pass_over(seed: int, augment: bool) -> torch.Tensor:
        return torch.cat(
            [x for x, _ in splits.train.batches(3, shuffle=False, augment=augment, seed=seed, epoch=0)]
        )

    assert torch.equal(pass_over(0, True), pass_over(0, True))
    assert not torch.equal(pass_over(0, True), pass_over(1, True))
    assert torch.equal(pass_over(0, False), pass_over(1, False))
    assert load_data(tmp_path, validation=0, image_size=64).input_shape == (3, 64, 64)
    with pytest.raises(DataError, match="no test set"):
        len(splits.test)


def test_processes_decode_what_threads_decode(tmp_path: Path) -> None:
    write_tree(tmp_path, "train", sizes=(150, 260), count=2)
    passes = []
    for workers in (0, 2):
        train = load_data(tmp_path, validation=0, workers=workers).train
        options = {"shuffle": True, "seed": 1, "epoch": 0}
        passes.append(
            [x for augment in (True, False) for x, _ in train.batches(3, augment=augment, **options)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*passes, strict=True))
    damaged = next((tmp_path / "train").rglob("*.png"))
    damaged.write_bytes(b"no image")
    with pytest.raises(DataError, match=f"{damaged.name} is not a readable image"):
        list(train.batches(3, augment=False, **options))
    with pytest.raises(DataError, match="at least 0, not -1"):
        load_data(tmp_path, workers=-1)


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    pixels = pictures(8, size=28, channels=1)
    write_parquet(tmp_path / "train.parquet", [encode(p) for p in pixels], [0, 1] * 4)
    splits = load_data(tmp_path, validation=0)
    assert splits.input_shape == (1, 28, 28)
    assert splits.mean[0] == pytest.approx(pixels.mean() / 255, rel=1e-6)
    assert splits.std[0] == pytest.approx((pixels / 255).std(), rel=1e-6)
    assert torch.equal(raw(splits.train), nchw(pixels))


def test_digits() -> None:
    splits = load_data("digits", seed=3)
    assert splits.input_shape == (1, 16, 16)
    assert splits.classes == tuple("0123456789")
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 1797
    images = raw(splits.train)
    assert images.max() == 255
    assert images.min() == 0
    other = load_data("digits", seed=4)
    assert torch.equal(raw(other.test), raw(splits.test))
    assert not torch.equal(other.validation.indices, splits.validation.indices)
    # Digits are never mirrored: the source says so.
    assert not splits.train.source.flip


def test_expect_classes() -> None:
    splits = load_data("digits")
    splits.expect_classes(10)
    with pytest.raises(DataError, match="digits has 10 classes but resnet50 tells 1000 apart"):
        splits.expect_classes(1000, model="resnet50")
    with pytest.raises(DataError, match="not known"):
        splits.expect_classes(None)


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data at"):
        load_data(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"holds no data set: looked for train\.parquet"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="fraction"):
        load_data("digits", validation=1)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="no class folders"):
        load_data(tmp_path)
    (tmp_path / "train" / "ant").mkdir()
    with pytest.raises(DataError, match="ant holds no images"):
        load_data(tmp_path)
    write_parquet(tmp_path / "train.parquet", [], [])
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path)
    with pytest.raises(DataError, match="is a file; give the folder"):
        load_data(tmp_path / "train.parquet")
    write_parquet(tmp_path / "train.parquet", [encode(pictures(1)[0])], [0], image="picture")
    with pytest.raises(DataError, match=r"needs an image column \(img or image\).*it has picture, label"):
        load_data(tmp_path)
    write_parquet(tmp_path / "train.parquet", [encode(pictures(1)[0]), b"torn"], [0, 1])
    with pytest.raises(DataError, match=r"train\.parquet, .*1 is not a readable image"):
        load_data(tmp_path)
    write_parquet(tmp_path / "train.parquet", [encode(p) for p in pictures(2)], [0, -1])
    with pytest.raises(DataError, match="label -1"):
        load_data(tmp_path)
    write_parquet(tmp_path / "train.parquet", [encode(p) for p in pictures(2)], [0, 1])
    write_parquet(tmp_path / "test.parquet", [encode(p) for p in pictures(2)], [0, 7])
    with pytest.raises(DataError, match="label 7, but training has only 2 classes"):
        len(load_data(tmp_path, validation=0).test)
    data = (tmp_path / "train.parquet").read_bytes()
    (tmp_path / "train.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        load_data(tmp_path)


def test_the_package_imports_without_torch() -> None:
    code = "import sys, pruner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3]).returncode == 0


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/cifar10 is absent")
def test_cifar10_copy_is_fast() -> None:
    started = time.perf_counter()
    splits = load_data(SHARED, quiet=True)
    assert time.perf_counter() - started < 60
    assert (len(splits.train), len(splits.validation)) == (45_000, 5_000)
    assert splits.validation.labels.bincount().tolist() == [500] * 10
    # Processor time of one thread: what other programs do to the machine does not count.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    started, count = time.thread_time(), 0
    for images, _ in splits.train.batches(128, shuffle=True, augment=True, seed=0, epoch=0, limit=80):
        count += len(images)
    seconds = time.thread_time() - started
    torch.set_num_threads(threads)
    assert count / seconds > 20_000
