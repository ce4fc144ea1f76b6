"""Augmentation and batches against plain loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import DataError
from pruner.data.augment import DRAWS, crop_and_flip, padding_for
from pruner.data.crop import crop_box
from pruner.data.seeds import mix_seed
from pruner.data.split import MemorySource, Split, stratified


def make(count: int, size: int = 6) -> Split:
    images = torch.arange(count * size * size, dtype=torch.int64).remainder(256).to(torch.uint8)
    source = MemorySource(images.view(count, 1, size, size), torch.arange(count))
    return Split("train", lambda: source, mean=(0.5,), std=(0.25,))


@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(1, 4),
    size=st.sampled_from([8, 16, 23, 24, 32]),
    flip=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_crop_and_flip_against_a_loop(seed: int, channels: int, size: int, flip: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (5, channels, size, size + 2), dtype=torch.uint8, generator=random)
    draws = torch.rand(5, DRAWS, generator=random)
    draws[0] = 0
    draws[1] = 1 - 2**-24  # the largest number torch.rand gives
    result = crop_and_flip(images, draws, flip=flip)
    pad = 4 if size >= 24 else 2
    assert padding_for(size) == pad
    for image, draw, got in zip(images, draws.tolist(), result, strict=True):
        dy, dx = int(draw[0] * (2 * pad + 1)), int(draw[1] * (2 * pad + 1))
        padded = torch.nn.functional.pad(image, (pad, pad, pad, pad))
        expected = padded[:, dy : dy + size, dx : dx + size + 2]
        assert torch.equal(got, expected.flip(2) if flip and draw[4] < 0.5 else expected)


@given(draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=5, max_size=5))
def test_crop_boxes_lie_inside(draws: list[float]) -> None:
    for width, height in ((100, 100), (500, 20), (7, 300)):
        left, top, right, bottom = crop_box(width, height, draws)
        assert 0 <= left < right <= width + 1e-9
        assert 0 <= top < bottom <= height + 1e-9


@given(
    count=st.integers(1, 40),
    batch_size=st.integers(1, 45),
    limit=st.none() | st.integers(1, 5),
    shuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_batches(count: int, batch_size: int, limit: int | None, shuffle: bool, epoch: int) -> None:
    split = make(count)

    def run() -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(
            split.batches(batch_size, shuffle=shuffle, augment=False, seed=5, epoch=epoch, limit=limit)
        )

    before = torch.get_rng_state()
    batches = run()
    assert torch.equal(torch.get_rng_state(), before)
    assert len(batches) == split.steps(batch_size, limit)
    labels = torch.cat([labels for _, labels in batches]).tolist()
    assert len(set(labels)) == len(labels)
    if limit is None:
        assert sorted(labels) == list(range(count))
    if batch_size > 1 and count > 1:
        assert all(len(labels) > 1 for _, labels in batches)
    for images, labels_ in batches:
        assert images.dtype == torch.float32
        expected = (split.source.images[labels_].double() / 255 - 0.5) / 0.25
        assert torch.allclose(images.double(), expected, atol=1e-5)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, run(), strict=True))


def test_order_depends_on_seed_and_epoch() -> None:
    split = make(50)
    orders = {
        tuple(
            torch.cat([y for _, y in split.batches(9, shuffle=True, augment=True, seed=s, epoch=e)]).tolist()
        )
        for s in (0, 1)
        for e in (0, 1)
    }
    assert len(orders) == 4
    assert mix_seed("a", 1, 2) != mix_seed("a", 2, 1)


def test_a_batch_needs_an_image() -> None:
    with pytest.raises(DataError, match="at least one image"):
        next(make(3).batches(0, shuffle=False, augment=False, seed=0, epoch=0))


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    fraction=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_stratified(labels: list[int], fraction: float, seed: int) -> None:
    tensor = torch.tensor(labels)
    rest, cut = stratified(tensor, fraction, seed=seed)
    assert sorted(rest.tolist() + cut.tolist()) == list(range(len(labels)))
    for label in set(labels):
        total = labels.count(label)
        held = int((tensor[cut] == label).sum())
        assert abs(held - fraction * total) <= 1 or total == 1
        assert held < total
        if fraction > 0 and total > 1:
            assert held >= 1
    again = stratified(tensor, fraction, seed=seed)
    assert torch.equal(cut, again[1])
