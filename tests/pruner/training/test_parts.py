"""State files, distillation, moving average, schedule, evaluation and recalibration."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latency_model.errors import DataError, InputError, WeightsError
from pruner.data.split import MemorySource, Split
from pruner.training import distillation_loss, evaluate, load_state, recalibrate, save_state
from pruner.training.ema import Ema
from pruner.training.schedule import lr_factor
from pruner.training.state import STATE_FILE, flatten_optimizer, unflatten_optimizer


def split_of(images: torch.Tensor, labels: torch.Tensor) -> Split:
    channels = images.shape[1]
    return Split("test", lambda: MemorySource(images, labels), mean=(0.0,) * channels, std=(1.0,) * channels)


def test_state_round_trip_and_views(tmp_path: Path) -> None:
    base = torch.arange(24.0).view(1, 2, 3, 4)
    tensors = {
        "a": base,
        "shared": base[:, :1],
        "last": base.to(memory_format=torch.channels_last),
        "half": base.bfloat16(),
        "count": torch.tensor(3),
    }
    meta = {"epoch": 3, "list": [1, None, "ü"], "nested": {"x": 0.1}}
    save_state(tmp_path, tensors=tensors, meta=meta)
    read, read_meta = load_state(tmp_path)
    assert read_meta == meta
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


@given(cut=st.floats(0, 0.999))
@settings(max_examples=25, deadline=None)
def test_a_truncated_state_is_an_error(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    folder = tmp_path_factory.mktemp("state")
    save_state(folder, tensors={"a": torch.ones(10)}, meta={})
    path = folder / STATE_FILE
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(WeightsError, match="damaged"):
        load_state(folder)


def test_a_failed_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, tensors={"a": torch.ones(2)}, meta={"epoch": 1})

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        save_state(tmp_path, tensors={"a": torch.zeros(2)}, meta={"epoch": 2})
    assert load_state(tmp_path)[1] == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_weights_file_is_no_state(tmp_path: Path) -> None:
    from pruner.training.state import save_tensors

    save_tensors(tmp_path / STATE_FILE, {"a": torch.ones(1)}, {"epochs": "1"})
    with pytest.raises(WeightsError, match="not a training state"):
        load_state(tmp_path)
    with pytest.raises(WeightsError, match="no such file"):
        load_state(tmp_path / "nowhere")


def test_optimizer_state_round_trip_keeps_the_memory_order() -> None:
    def step(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> None:
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()

    def make() -> tuple[nn.Parameter, torch.optim.SGD]:
        order = torch.channels_last
        weight = nn.Parameter(torch.arange(16.0).view(1, 4, 2, 2).to(memory_format=order))
        return weight, torch.optim.SGD([weight], lr=0.1, momentum=0.9)

    weight, optimizer = make()
    step(optimizer, weight)
    flat = {name: t.contiguous().clone() for name, t in flatten_optimizer(optimizer).items()}
    assert list(flat) == ["optimizer.0.momentum_buffer"]
    other_weight, other = make()
    with torch.no_grad():
        other_weight.copy_(weight)
    unflatten_optimizer(other, {**flat, "model.a": torch.ones(1)})
    buffer = other.state[other_weight]["momentum_buffer"]
    assert buffer.is_contiguous(memory_format=torch.channels_last)
    step(optimizer, weight)
    step(other, other_weight)
    assert torch.equal(weight, other_weight)


@given(
    temperature=st.floats(0.5, 10),
    weight=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50, deadline=None)
def test_distillation_against_its_definition(temperature: float, weight: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    student, teacher = random.normal(size=(2, 5, 7)) * 3
    labels = random.integers(0, 7, 5)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = softmax(teacher / temperature), softmax(student / temperature)
    soft = (p * np.log(p / q)).sum(1).mean() * temperature**2
    hard = -np.log(softmax(student)[np.arange(5), labels]).mean()
    loss = distillation_loss(
        torch.tensor(student),
        torch.tensor(teacher),
        torch.tensor(labels),
        weight=weight,
        temperature=temperature,
    )
    assert loss.item() == pytest.approx((1 - weight) * hard + weight * soft, rel=1e-9, abs=1e-12)


def test_moving_average_against_the_recursion() -> None:
    model = nn.BatchNorm1d(1)
    average = Ema(model, 0.5)
    expected = 1.0
    for number in range(1, 8):
        with torch.no_grad():
            model.weight.fill_(float(number))
        average.update()
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * number
    assert average.shadow["weight"].item() == pytest.approx(expected, rel=1e-6)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 7


@given(
    steps=st.integers(1, 1000), warmup=st.integers(0, 100), schedule=st.sampled_from(["cosine", "constant"])
)
def test_schedule_rises_then_never_rises_again(steps: int, warmup: int, schedule: str) -> None:
    factors = [lr_factor(i, steps=steps, warmup_steps=warmup, schedule=schedule) for i in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert all(a < b for a, b in pairwise(factors[:warmup]))
    assert all(a >= b for a, b in pairwise(factors[warmup:]))
    if warmup < steps:
        assert max(factors) == 1


def test_unknown_schedule() -> None:
    with pytest.raises(InputError, match="cosine, constant"):
        lr_factor(0, steps=1, warmup_steps=0, schedule="linear")


class Threshold(nn.Module):
    """Says class 1 when the pixel is above a half."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        value = x.mean((1, 2, 3))
        return torch.stack((0.5 - value, value - 0.5), 1)


def test_evaluate_counts_every_image_once_and_restores_the_modes() -> None:
    images = torch.tensor([0, 255] * 50, dtype=torch.uint8).view(100, 1, 1, 1)
    labels = torch.tensor([0, 1] * 49 + [1, 0])
    model = Threshold().train()
    for batch_size in (7, 33, 99, 500):
        assert evaluate(model, split_of(images, labels), batch_size=batch_size) == 98.0
    assert evaluate(model, split_of(images, labels), batch_size=49, limit=1) == 100.0
    assert model.training
    with pytest.raises(DataError, match="no images"):
        evaluate(model, split_of(images[:0], labels[:0]))


def test_recalibration_finds_the_plain_mean_and_variance() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 4, 4), dtype=torch.uint8)
    split = split_of(images, torch.zeros(64, dtype=torch.int64))
    norm = nn.BatchNorm2d(3, momentum=0.01)
    model = nn.Sequential(norm, nn.Dropout(0.9), nn.BatchNorm2d(3, track_running_stats=False)).train()
    weight = norm.weight.detach().clone()
    assert recalibrate(model, split, batches=4, batch_size=16) == 1
    pixels = images.double() / 255
    assert torch.allclose(norm.running_mean.double(), pixels.mean((0, 2, 3)), atol=1e-6)
    # The average over batches of the unbiased variances is close to, not equal to, that of all pixels.
    assert torch.allclose(norm.running_var.double(), pixels.var((0, 2, 3)), rtol=0.02)
    assert norm.momentum == 0.01
    assert model.training
    assert norm.training
    assert torch.equal(norm.weight, weight)
    assert recalibrate(nn.Sequential(nn.Conv2d(3, 1, 1)), split) == 0
