"""The training loop: it learns, it resumes bit by bit, it stops when the loss is not a number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latency_model.errors import GharialError, InputError, WeightsError
from pruner.data import Splits, load_data
from pruner.training import Callback, Step, fit, load_state
from pruner.training.state import STATE_FILE

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits", seed=0)


def net(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_it_learns_the_digits(digits: Splits) -> None:
    model = net()
    history = fit(model, digits, epochs=4, lr=0.1, batch_size=64, label_smoothing=0.05)
    assert [record.epoch for record in history.epochs] == [1, 2, 3, 4]
    assert history.epochs[-1].validation_accuracy > 90
    assert history.epochs[-1].loss < history.epochs[0].loss
    assert not model.training


def test_same_seed_same_bits_and_the_callers_random_state_is_left_alone(digits: Splits) -> None:
    models = [net(), net(), net()]
    before = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        torch.rand(3)  # what the caller drew before must not matter
        fit(model, digits, epochs=1, lr=0.05, seed=seed, limit_batches=4)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])
    torch.set_rng_state(before)
    expected = torch.rand(4)
    torch.set_rng_state(before)
    fit(net(), digits, epochs=1, lr=0.05, limit_batches=1)
    assert torch.equal(torch.rand(4), expected)


def test_each_epoch_draws_its_own_noise(digits: Splits) -> None:
    drawn: list[float] = []
    fit(
        net(),
        digits,
        epochs=3,
        lr=0.05,
        limit_batches=1,
        on_step=lambda _: drawn.append(torch.rand(1).item()),
    )
    assert len(set(drawn)) == 3


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("ema", [None, 0.9])
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, digits: Splits, ema: float | None
) -> None:
    options = {"epochs": 3, "lr": 0.05, "limit_batches": 4, "ema": ema, "teacher": net(7)}
    whole = net()
    expected = fit(whole, digits, **options)

    def stop(step: Step) -> None:
        if (step.epoch, step.step) == (1, 6):
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        fit(net(), digits, **options, state_dir=tmp_path, on_step=stop)
    resumed, steps = net(), []
    history = fit(resumed, digits, **options, state_dir=tmp_path, on_step=lambda s: steps.append(s.step))
    assert steps == list(range(4, 12))
    assert same(whole, resumed)
    losses = [[record.loss for record in h.epochs] for h in (expected, history)]
    assert losses[0] == losses[1]
    # Once finished, the same call does nothing, on a new model or on the result.
    again, steps = net(), []
    for model in (again, resumed):
        fit(model, digits, **options, state_dir=tmp_path, on_step=lambda s: steps.append(s.step))
        assert same(model, whole)
    assert not steps


SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    import torch
    from torch import nn
    torch.set_num_threads(1)
    from pruner.data import load_data
    from pruner.training import fit
    from pruner.training.state import save_tensors
    folder, kill_at, result = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3),
        nn.Conv2d(8, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10),
    )
    model(torch.zeros(2, 1, 16, 16))
    if kill_at < 0:  # in the middle of writing the state of epoch -kill_at
        import pathlib
        real, count = pathlib.Path.replace, [0]
        def replace(self, target):
            count[0] += 1
            if count[0] == -kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, target)
        pathlib.Path.replace = replace
    def on_step(step):
        print(step.step, flush=True)
        if step.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    fit(model, load_data("digits"), epochs=3, lr=0.05, limit_batches=3, state_dir=folder, on_step=on_step)
    save_tensors(result, model.state_dict(), {})
"""


def run_script(tmp_path: Path, folder: str, kill_at: int) -> tuple[int, list[int]]:
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    arguments = [str(tmp_path / folder), str(kill_at), str(tmp_path / f"{folder}.safetensors")]
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, [int(line) for line in done.stdout.split()]


def test_kill_9_loses_no_epoch_and_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The uninterrupted run is in this process, which saves the time of starting another.
    arguments = [str(tmp_path / "whole"), "99", str(tmp_path / "whole.safetensors")]
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    exec(textwrap.dedent(SCRIPT), {})
    code, first = run_script(tmp_path, "killed", 4)
    assert (code, first[-1]) == (-signal.SIGKILL, 4)
    # Killed again between writing the second epoch's state and renaming it: that epoch is not finished.
    code, second = run_script(tmp_path, "killed", -1)
    assert (code, second) == (-signal.SIGKILL, [3, 4, 5])
    assert run_script(tmp_path, "killed", 99) == (0, [3, 4, 5, 6, 7, 8])
    whole, killed = (tmp_path / f"{name}.safetensors" for name in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    assert [path.name for path in (tmp_path / "killed").iterdir()] == [STATE_FILE]


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_last_epoch(tmp_path: Path, digits: Splits) -> None:
    class Poison(Callback):
        def loss(self, step: Step) -> Tensor | None:
            return torch.tensor(float("nan")) if step.step == 5 else None

    good = net()
    fit(good, digits, epochs=1, lr=0.05, limit_batches=4, schedule="constant", warmup_steps=0)
    model = net()
    with pytest.raises(GharialError, match=r"became nan in epoch 2, step 2 .*after epoch 1 are kept in"):
        fit(
            model,
            digits,
            epochs=2,
            lr=0.05,
            limit_batches=4,
            schedule="constant",
            warmup_steps=0,
            callbacks=[Poison()],
            state_dir=tmp_path,
        )
    assert same(model, good)


def test_weights_that_overflow_in_the_last_step_are_not_saved(tmp_path: Path, digits: Splits) -> None:
    class Overflow(Callback):
        def after_step(self, step: Step) -> None:
            if step.step == 3:
                with torch.no_grad():
                    model[-1].weight.mul_(float("inf"))

    model = net()
    with pytest.raises(GharialError, match="weights became infinite in epoch 2"):
        fit(model, digits, epochs=2, lr=0.05, limit_batches=2, callbacks=[Overflow()], state_dir=tmp_path)
    assert model[-1].weight.isfinite().all()
    assert load_state(tmp_path)[0]["model.9.weight"].isfinite().all()


def test_a_state_of_another_run_is_refused_and_left_alone(tmp_path: Path, digits: Splits) -> None:
    options = {"epochs": 1, "limit_batches": 2, "state_dir": tmp_path}
    fit(net(), digits, lr=0.05, **options)
    before = (tmp_path / STATE_FILE).read_bytes()
    with pytest.raises(InputError, match=r"another training run \(lr: 0.05 there, 0.1 here\)"):
        fit(net(), digits, lr=0.1, **options)
    with pytest.raises(InputError, match="began with other weights"):
        fit(net(1), digits, lr=0.05, **options)
    assert (tmp_path / STATE_FILE).read_bytes() == before
    (tmp_path / STATE_FILE).write_bytes(before[: len(before) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        fit(net(), digits, lr=0.05, **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [("lr", 0.0), ("lr", float("nan")), ("epochs", -1), ("ema", 1.0), ("schedule", "steps"), ("momentum", 1)],
)
def test_bad_options_are_named(digits: Splits, option: str, value: object) -> None:
    with pytest.raises(InputError, match=option):
        fit(net(), digits, **{"epochs": 1, "lr": 0.1, option: value})


class Gate(Callback):
    """A trained scale outside the model, as a pruning method has."""

    def __init__(self) -> None:
        self.gate = nn.Parameter(torch.zeros(3))
        self.seen: list[float] = []

    def parameter_groups(self) -> list[dict]:
        return [{"params": [self.gate], "lr": 0.5, "weight_decay": 0.0}]

    def loss(self, step: Step) -> Tensor:
        return (self.gate - 1 + 0.1 * torch.randn(3)).square().sum()

    def after_step(self, step: Step) -> None:
        self.seen.append(step.progress)

    def state(self) -> dict[str, Tensor]:
        return {"gate": self.gate.detach()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.gate.copy_(tensors["gate"])


def test_a_callback_trains_its_own_parameters_and_resumes(tmp_path: Path, digits: Splits) -> None:
    options = {"epochs": 2, "lr": 0.05, "limit_batches": 5, "momentum": 0.5}
    whole = Gate()
    fit(net(), digits, **options, callbacks=[whole])
    assert whole.gate.detach().sub(1).abs().max() < 0.5
    assert whole.seen == [i / 10 for i in range(10)]

    def stop(step: Step) -> None:
        if step.epoch == 1:
            raise InterruptedRunError

    with pytest.raises(InterruptedRunError):
        fit(net(), digits, **options, callbacks=[Gate()], state_dir=tmp_path, on_step=stop)
    resumed = Gate()
    fit(net(), digits, **options, callbacks=[resumed], state_dir=tmp_path)
    assert len(resumed.seen) == 5
    assert torch.equal(resumed.gate, whole.gate)


def test_the_teacher_keeps_its_modes_and_weights(digits: Splits) -> None:
    teacher, untouched = net(3).train(), net(3)
    fit(net(), digits, epochs=1, lr=0.05, teacher=teacher, limit_batches=2)
    assert teacher.training
    assert same(teacher, untouched)


def test_bfloat16_autocast_learns(digits: Splits) -> None:
    model = net()
    history = fit(model, digits, epochs=2, lr=0.1, batch_size=64, amp=True)
    assert history.epochs[-1].validation_accuracy > 60
    assert next(model.parameters()).dtype == torch.float32
