"""Mixed precision, clipping and memory order in the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latency_model.errors import InputError
from pruner.data import Splits, load_data
from pruner.pipeline import PruneRequest
from pruner.training import Callback, Step, fit, load_state
from pruner.training.mixed import half_type


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits", seed=0)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10)
    )


@pytest.mark.parametrize(
    "option", [{"amp": "fp8"}, {"clip_norm": 0.0}, {"clip_norm": float("nan")}, {"ema": 1.0}]
)
def test_a_pruning_run_refuses_bad_options_before_it_begins(option: dict) -> None:
    (name,) = option
    with pytest.raises(InputError, match=name):
        PruneRequest(model="m", table="t", budget="macs=0.5x", data="digits", **option)


def test_names() -> None:
    assert [half_type(name) for name in (False, "off", True, "bf16", "fp16")] == [
        None,
        None,
        torch.bfloat16,
        torch.bfloat16,
        torch.float16,
    ]
    with pytest.raises(InputError, match="amp must be bf16 or fp16, not 'fp8'"):
        half_type("fp8")


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_it_learns_in_16_bits_with_weights_in_32(digits: Splits, amp: str) -> None:
    model = net()
    seen: set[torch.dtype] = set()
    model[3].register_forward_hook(lambda _, args, __: seen.add(args[0].dtype))
    history = fit(model, digits, epochs=2, lr=0.1, batch_size=64, amp=amp)
    assert history.epochs[-1].validation_accuracy > 70
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert half_type(amp) in seen


class Outside(Callback):
    """A parameter that moves by the callback's own rule."""

    def __init__(self, size: float = 3.0) -> None:
        self.p, self.size = nn.Parameter(torch.ones(2)), size
        self.seen: list[Tensor | None] = []

    def outside(self) -> list[Tensor]:
        return [self.p]

    def before_step(self, step: Step) -> None:
        self.p.grad = None

    def loss(self, step: Step) -> Tensor:
        return self.size * self.p.sum()

    def after_step(self, step: Step) -> None:
        self.seen.append(None if self.p.grad is None else self.p.grad.clone())


@pytest.mark.parametrize("amp", ["off", "fp16"])
def test_callbacks_see_gradients_without_the_loss_scale(digits: Splits, amp: str) -> None:
    outside = Outside()
    fit(net(), digits, epochs=1, lr=0.1, limit_batches=3, callbacks=[outside], amp=amp)
    assert all(torch.equal(grad, torch.full((2,), 3.0)) for grad in outside.seen)


def test_a_gradient_that_overflows_moves_nothing_but_the_loss_scale(digits: Splits, tmp_path: Path) -> None:
    class Huge(Outside):
        def loss(self, step: Step) -> Tensor:
            return 1e36 * (self.p.sum() - 2)

    class Steep(Callback):
        """Adds nothing to the loss, and 1e36 to one gradient."""

        def loss(self, step: Step) -> Tensor:
            weight = model[4].weight[0, 0]
            return 1e36 * (weight - weight.detach())

    model, outside = net(), Huge()
    before = [p.detach().clone() for p in model.parameters()]
    fit(
        model,
        digits,
        epochs=1,
        lr=0.1,
        limit_batches=2,
        callbacks=[outside, Steep()],
        amp="fp16",
        state_dir=tmp_path,
        validate=False,
    )
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert outside.seen == [None, None]
    assert load_state(tmp_path)[1]["loss_scale"]["scale"] == 65536 / 4


def test_an_interrupted_fp16_run_ends_with_the_same_bits(digits: Splits, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    class Steep(Callback):
        def loss(self, step: Step) -> Tensor | None:
            if step.step:
                return None
            weight = model[4].weight[0, 0]
            return 1e36 * (weight - weight.detach())

    def stop(step: Step) -> None:
        if step.step == 3:
            raise StoppedError

    options = {"epochs": 2, "lr": 0.1, "limit_batches": 2, "amp": "fp16", "validate": False}
    model = net()
    fit(model, digits, **options, callbacks=[Steep()])
    whole = model
    model = net()
    with pytest.raises(StoppedError):
        fit(model, digits, **options, callbacks=[Steep()], state_dir=tmp_path, on_step=stop)
    model = net()
    fit(model, digits, **options, callbacks=[Steep()], state_dir=tmp_path)
    assert load_state(tmp_path)[1]["loss_scale"]["scale"] == 65536 / 2
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_clipping_bounds_the_step(digits: Splits) -> None:
    """Without momentum, decay or warm-up one step moves the weights by lr times the clipped norm."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    moves = {}
    for clip in (None, 0.01):
        torch.manual_seed(0)
        model[1].reset_parameters()
        before = model[1].weight.detach().clone(), model[1].bias.detach().clone()
        fit(
            model,
            digits,
            epochs=1,
            lr=2.0,
            limit_batches=1,
            momentum=0,
            weight_decay=0,
            warmup_steps=0,
            clip_norm=clip,
            validate=False,
        )
        moved = [after.detach() - was for after, was in zip(model[1].parameters(), before, strict=True)]
        moves[clip] = torch.cat([move.flatten() for move in moved])
    assert moves[0.01].norm().item() == pytest.approx(0.02, rel=1e-3)
    assert moves[None].norm() > 10 * moves[0.01].norm()
    assert torch.cosine_similarity(moves[None], moves[0.01], dim=0) > 1 - 1e-5
    with pytest.raises(InputError, match="clip_norm must be above 0"):
        fit(model, digits, epochs=1, lr=1.0, clip_norm=0)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_order(digits: Splits, channels_last: bool) -> None:
    model, orders = net(), []
    model[0] = nn.Conv2d(1, 8, 3, stride=2)
    model[1].register_forward_hook(
        lambda _, args, __: orders.append(args[0].is_contiguous(memory_format=torch.channels_last))
    )
    fit(model, digits, epochs=1, lr=0.1, limit_batches=1, channels_last=channels_last)
    assert set(orders) == {channels_last}
