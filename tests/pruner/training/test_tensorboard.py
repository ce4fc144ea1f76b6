"""TensorBoard logs: which numbers at which steps, one writer for a resumed run, and a package that may be missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pruner.training.tensorboard as module
from latency_model.errors import DependencyError
from pruner.data import Splits, load_data
from pruner.data.split import MemorySource, Split
from pruner.methods import Problem, open_method
from pruner.setting import prepare
from pruner.training import Callback, Step, fit
from pruner.training.tensorboard import TensorBoard


class Writer:
    """Stands for a SummaryWriter."""

    made: list[Writer]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed, self.flushes = folder, purge_step, False, 0
        self.scalars: dict[str, dict[int, float]] = {}
        self.made.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.closed
        self.scalars.setdefault(name, {})[step] = value

    def flush(self) -> None:
        self.flushes += 1

    def close(self) -> None:
        self.closed = True


class Shown(Callback):
    def __init__(self) -> None:
        self.steps = 0

    def after_step(self, step: Step) -> None:
        self.steps += 1

    def scalars(self) -> dict[str, float]:
        return {"open/conv1": 100.0 - self.steps}


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[Writer]:
    made: list[Writer] = []
    monkeypatch.setattr(Writer, "made", made, raising=False)
    monkeypatch.setattr(module, "_writer_class", lambda: Writer)
    return made


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits", seed=0)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(256, 10))


def test_what_is_written_and_when(tmp_path: Path, digits: Splits, writers: list[Writer]) -> None:
    steps: list[Step] = []
    history = fit(
        net(),
        digits,
        epochs=2,
        lr=0.1,
        limit_batches=4,
        callbacks=[Shown(), TensorBoard(tmp_path, every=3)],
        on_step=steps.append,
    )
    (writer,) = writers
    assert (writer.folder, writer.purge_step, writer.closed, writer.flushes) == (str(tmp_path), 0, True, 2)
    chosen = (0, 3, 6, 7)  # every third, and the last
    assert writer.scalars["train/loss"] == {n: steps[n].loss for n in chosen}
    assert writer.scalars["train/accuracy"] == {n: steps[n].accuracy for n in chosen}
    assert writer.scalars["train/lr"] == {n: steps[n].lr for n in chosen}
    assert writer.scalars["open/conv1"] == {n: 99.0 - n for n in chosen}
    for name in ("loss", "train_accuracy", "validation_accuracy", "images_per_s"):
        expected = {4 * r.epoch - 1: getattr(r, name) for r in history.epochs}
        assert writer.scalars[f"epoch/{name}"] == expected
    assert all(0 <= step.accuracy <= 100 for step in steps)


def test_it_only_looks_on(tmp_path: Path, digits: Splits, writers: list[Writer]) -> None:
    """A run that stopped goes on with logs and without, and what is redone is hidden."""
    options = {"epochs": 2, "lr": 0.1, "limit_batches": 3, "state_dir": tmp_path}

    class StoppedError(Exception):
        pass

    def stop(step: Step) -> None:
        if step.step == 4:
            raise StoppedError

    with pytest.raises(StoppedError):
        fit(net(), digits, **options, callbacks=[TensorBoard(tmp_path / "a")], on_step=stop)
    fit(net(), digits, **options, callbacks=[TensorBoard(tmp_path / "a")])
    assert [writer.purge_step for writer in writers] == [0, 3]
    assert all(writer.closed for writer in writers)
    fit(net(), digits, **options)


def test_gator_shows_lambda_the_expected_ratio_and_the_open_channels(
    kit: Any, tmp_path: Path, writers: list[Writer]
) -> None:
    kit.table().save(tmp_path / "table.parquet")
    setting = prepare("tiny", weights=None, table=tmp_path / "table.parquet", budget="latency=0.6x")
    source = MemorySource(torch.randint(0, 256, (32, 3, 12, 12), dtype=torch.uint8), torch.arange(32) % 5)
    train, held, test = (Split(n, lambda: source, mean=(0.5,) * 3, std=(0.2,) * 3) for n in "abc")
    problem = Problem(
        model=setting.module,
        graph=setting.graph,
        cost=setting.cost,
        budget=setting.budget,
        ratio=setting.ratio,
        splits=Splits(train, held, test, tuple("abcde"), (3, 12, 12), (0.5,) * 3, (0.2,) * 3),
        epochs=1,
        seed=0,
        state_dir=tmp_path / "learn",
        batch_size=8,
        callbacks=[TensorBoard(tmp_path, every=1)],
    )
    values = open_method("gator").values(problem)
    shown = writers[0].scalars
    assert {name for name in shown if name.startswith("open/")} == {f"open/{g}" for g in setting.graph.groups}
    assert shown["gator/lambda"][3] == values.notes["lambda"]
    assert shown["gator/expected_ratio"][3] == values.notes["expected_ratio"]
    for name, group in setting.graph.groups.items():
        assert shown[f"open/{name}"][0] == group.size
        assert shown[f"open/{name}"][3] >= values.open_counts[name]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(DependencyError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_real_files(tmp_path: Path, digits: Splits) -> None:
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses: list[float] = []
    fit(
        net(),
        digits,
        epochs=1,
        lr=0.1,
        limit_batches=3,
        callbacks=[TensorBoard(tmp_path, every=1)],
        on_step=lambda step: losses.append(step.loss),
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"train/loss", "train/lr", "epoch/validation_accuracy"} <= set(events.Tags()["scalars"])
    read = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert [step for step, _ in read] == [0, 1, 2]
    assert [value for _, value in read] == pytest.approx(losses, rel=1e-6)


def test_nothing_is_left_open_when_training_fails(
    tmp_path: Path, digits: Splits, writers: list[Writer]
) -> None:
    class Poison(Callback):
        def loss(self, step: Step) -> Tensor:
            return torch.tensor(float("nan"))

    with pytest.raises(Exception, match="became nan"):
        fit(net(), digits, epochs=1, lr=0.1, callbacks=[Poison(), TensorBoard(tmp_path)])
    assert [writer.closed for writer in writers] == [True]
