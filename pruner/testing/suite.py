"""What every pruning method must do: inherit the suite in a test module and say how to open yours.

from pruner.testing import MethodSuite

class TestMine(MethodSuite):
    def open(self):
        return open_method("mine")
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from latency_model.errors import DataError
from latency_model.harvest import harvest
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel, load_model
from profiler.backends.fake import FakeDevice
from profiler.plan import plan
from pruner.confidence import allocate_within
from pruner.cost import macs_cost
from pruner.decide import Decision, cut, decide
from pruner.edits import Edit
from pruner.methods import Method, Problem, Rewriter, Values
from pruner.methods.options import described
from pruner.programme import Losses
from pruner.proof import Proof
from pruner.rewriting import apply_edits
from pruner.sensitivity import measure_losses, sample
from pruner.setting import Setting, prepare
from pruner.testing.networks import NETWORKS, images
from pruner.training import fit
from pruner.training.callback import Callback
from pruner.training.history import EpochRecord

__all__ = ["MethodSuite", "StoppedError", "problem_of", "setting_of"]

_BATCH = 16


class StoppedError(Exception):
    """What stands for a kill in the suite."""


class _Stop(Callback):
    def after_epoch(self, record: EpochRecord) -> None:
        if record.epoch == 1:
            raise StoppedError


def setting_of(network: str, *, budget: str = "macs=0.6x", trained: int = 0) -> Setting:
    """Return one of the suite's networks on the fake device, trained for ``trained`` epochs on its images."""
    name = f"pruner.testing.networks:{NETWORKS[network].__name__}"
    device = FakeDevice(tile_in=4, tile_out=4, macs_per_us=5.0)
    rows = {
        shape: device.measure(shape, run_id="suite")
        for shape in plan([harvest(load_model(name, seed=0), batch=1)], step=4)
    }
    setting = prepare(name, weights=None, table=LatencyTable(device.environment, rows, ()), budget=budget)
    if trained:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            fit(setting.module, images(), epochs=trained, lr=0.05, batch_size=_BATCH, validate=False)
        setting.module.zero_grad()
    return setting


def problem_of(setting: Setting, state_dir: Path, **changes: Any) -> Problem:
    """Return the problem of ``setting`` as a run of two epochs would pose it, with ``changes``."""
    given: dict[str, Any] = {
        "model": setting.module,
        "graph": setting.graph,
        "cost": setting.cost,
        "budget": setting.budget,
        "ratio": setting.ratio,
        "splits": images(),
        "epochs": 2,
        "seed": 0,
        "state_dir": state_dir,
        "batch_size": _BATCH,
        "teacher": copy.deepcopy(setting.module),
        "allocate": lambda values: _granted(setting, values),
    }
    return Problem(**{**given, **changes})


def _granted(setting: Setting, values: Values) -> Mapping[str, int]:
    """Return the counts that the budget grants, with losses measured on 32 images where the values leave it open."""
    losses = _losses(setting, values)
    return allocate_within(
        setting, setting.limit, values.channels, losses=losses, shares=values.shares
    ).counts


def _losses(setting: Setting, values: Values) -> Losses | None:
    known = values.losses(setting.choices)
    if known is not None or values.shares is not None:
        return known
    batches = sample(images().train, 32, seed=0)
    return measure_losses(setting.module, setting.graph, values, setting.choices, batches)


def _unmeasured(_: nn.Module) -> Proof:
    """Stand for a measurement: for other budgets than of latency the decision does not look at it."""
    row = FakeDevice().measure(ConvShape(1, 8, 8, 8, 8), run_id="suite")
    return Proof(row, row)


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _modules(model: nn.Module) -> list[tuple[str, type[nn.Module], bool]]:
    return [(name, type(module), module.training) for name, module in model.named_modules()]


def _price(setting: Setting, edits: Sequence[Edit]) -> float:
    module = copy.deepcopy(setting.module)
    apply_edits(module, edits)
    return dataclasses.replace(setting, module=module).rewritten(edits).cost.full


def _same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _alike(first: Values, second: Values) -> bool:
    return all(np.array_equal(first.channels[name], second.channels[name]) for name in first.channels)


@pytest.mark.parametrize("network", list(NETWORKS))
class MethodSuite:
    """The conformance suite of ``Method``. Override ``open``; ``networks`` are those that the method takes.

    The test images of the suite cannot be opened: a method selects on images to train on, or of the validation.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)

    def open(self) -> Method:
        """Return a new method, configured for two epochs on 64 images."""
        raise NotImplementedError

    def _values(self, setting: Setting, folder: Path, **changes: Any) -> Values:
        method = self.open()
        values = method.values(problem_of(setting, folder, **changes))
        return values.check(setting.graph, method=method.name)

    def _run(self, setting: Setting, folder: Path, **changes: Any) -> tuple[Setting, Values]:
        """Return the setting that the method leaves, its edits made, and its values."""
        method = self.open()
        if isinstance(method, Rewriter):
            before = dataclasses.replace(setting, module=copy.deepcopy(setting.module))
            problem = problem_of(
                setting, folder / "rewrite", **{"price_after": lambda edits: _price(before, edits), **changes}
            )
            setting = setting.rewritten(method.rewrite(problem))
        return setting, self._values(setting, folder / "learn", **changes)

    def _setting(self, network: str) -> Setting:
        if network not in self.networks:
            pytest.skip(f"the method does not take a {network} network")
        return setting_of(network, trained=1)

    def _decision(self, setting: Setting, values: Values) -> Decision:
        return decide(
            setting,
            values.channels,
            _unmeasured,
            method=self.open().name,
            seed=0,
            losses=_losses(setting, values),
            shares=values.shares,
        )

    def test_a_plan_that_meets_the_budget(self, network: str, tmp_path: Path) -> None:
        """Its values lead to a network that computes what the masked one does and costs what was promised."""
        whole = self._setting(network).cost.full
        setting, values = self._run(self._setting(network), tmp_path)
        decision = self._decision(setting, values)
        small = cut(setting, decision.plan)  # raises where the oracle finds a difference
        name, shape = setting.loaded.name, setting.loaded.input_shape
        macs = macs_cost(harvest(LoadedModel(name, small, shape, 4), batch=setting.batch)).full
        assert macs == pytest.approx(decision.plan.predicted["macs"], rel=1e-9)
        assert macs <= 0.6 * whole * (1 + 1e-9)
        assert all(
            count >= 1
            for group, count in decision.allocation.counts.items()
            if not self._inside(setting, group)
        )

    @staticmethod
    def _inside(setting: Setting, group: str) -> bool:
        return any(group in groups for groups in setting.blocks.values())

    def test_the_seed_decides(self, network: str, tmp_path: Path) -> None:
        """The same seed gives the same values and, of a method that trains, the same weights."""
        ends: list[tuple[Values, dict[str, torch.Tensor]]] = []
        for folder in ("first", "second"):
            setting = self._setting(network)
            torch.manual_seed(len(ends))  # what others drew before must not matter
            _, values = self._run(setting, tmp_path / folder)
            ends.append((values, _state(setting.module)))
        assert _alike(ends[0][0], ends[1][0])
        assert _same(ends[0][1], ends[1][1])

    def test_the_model_is_left_fit_for_the_cut(self, network: str, tmp_path: Path) -> None:
        """No hook, no new module, no lasting mode; unless the method trains, no changed weight either."""
        setting = self._setting(network)
        before, expected = _state(setting.module), copy.deepcopy(setting.module)
        drawn = torch.get_rng_state()
        setting, _ = self._run(setting, tmp_path)
        assert torch.equal(torch.get_rng_state(), drawn)
        apply_edits(expected, setting.edits)
        assert _modules(setting.module) == _modules(expected)
        for module in setting.module.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
        if not self.open().trains:
            assert setting.edits or _same(before, _state(setting.module))
            assert all(parameter.grad is None for parameter in setting.module.parameters())
        assert setting.module.state_dict().keys() == expected.state_dict().keys()

    def test_describes_itself(self, network: str) -> None:  # noqa: ARG002 - the class gives it to every test
        """It has what ``gharial methods`` shows, and settings that can be typed."""
        method = self.open()
        assert method.name
        assert "arXiv" in method.paper or "doi" in method.paper
        assert (type(method).__doc__ or "").splitlines()[0].endswith(".")
        kind: Any = type(method)
        if hasattr(kind, "Config"):
            assert described(kind.Config()) == described(kind().config)
            assert dataclasses.is_dataclass(kind.Config)

    def test_missing_data_is_said_before_any_work(self, network: str, tmp_path: Path) -> None:
        """A method that needs images says so; one that does not runs without."""
        setting = self._setting(network)
        if self.open().needs_data:
            with pytest.raises(DataError, match="--data"):
                self._run(setting, tmp_path, splits=None)
        else:
            self._run(setting, tmp_path, splits=None)

    def test_goes_on_after_a_kill(self, network: str, tmp_path: Path) -> None:
        """A method that trains and is stopped after an epoch ends, asked again, where it would have ended."""
        if not self.open().trains:
            pytest.skip("it does not train")
        whole, expected = self._run(self._setting(network), tmp_path / "whole")
        stopped = self._setting(network)
        with pytest.raises(StoppedError):
            self._run(stopped, tmp_path / "stopped", callbacks=(_Stop(),))
        again, found = self._run(self._setting(network), tmp_path / "stopped")
        assert _alike(found, expected)
        assert _same(_state(again.module), _state(whole.module))
