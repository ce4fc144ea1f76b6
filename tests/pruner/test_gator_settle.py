"""Gator before the cut: the channels that the budget grants are trained on, and nothing else moves."""

import dataclasses

import pytest
import torch
from gator_things import problem

from pruner.data import load_data
from pruner.methods.gating import Gating
from pruner.methods.gator import Gator, GatorConfig
from pruner.training import Step
from pruner.training.callback import Callback


@pytest.fixture(scope="module")
def splits():
    return load_data("digits", quiet=True)


def granting(task, counts, asked=None):
    """The problem with an allocation that always grants ``counts``; it appends what it was asked to ``asked``."""

    def allocate(values):
        values.check(task.graph, method="gator")
        # Nobody's gates may be in the way of whoever weighs groups.
        assert not any(module._forward_pre_hooks for module in task.model.modules())
        if asked is not None:
            asked.append(values)
        return counts

    return dataclasses.replace(task, allocate=allocate)


def test_the_most_valuable_channels_stay_closed_ones_reopened_where_more_are_granted(splits, tmp_path):
    task = granting(problem(splits, tmp_path), {"conv1": 4, "conv2": 15})
    gating = Gating(task, GatorConfig(settle=0.5))
    gating.gates.attach(task.model)
    with torch.no_grad():
        gating.gates.logit_of("conv1").copy_(torch.linspace(-3, 4, 16))
        gating.gates.logit_of("conv2").copy_(torch.linspace(4, -3, 16))
        gating.gates.mask_of("conv2")[8:] = 0
    gating.before_step(Step(0, 2, 50, 100, 0.1))
    assert gating.gates.mask_of("conv1").nonzero()[:, 0].tolist() == [12, 13, 14, 15]
    assert gating.gates.mask_of("conv2").tolist() == [1.0] * 15 + [0.0]
    values = gating.values()
    assert values.open_counts == {"conv1": 4, "conv2": 15}
    kept = values.channels["conv2"]
    assert kept[:15].min() > 10 * kept[15]
    # No noise any more: every image sees the same gates.
    torch.manual_seed(0)
    task.model(torch.rand(64, 1, 16, 16))
    assert all((gate == gating.gates.mask_of(name)).all() for name, gate in gating.gates.last.items())


def test_nothing_moves_after_it(splits, tmp_path):
    asked = []
    gating = Gating(granting(problem(splits, tmp_path), {"conv1": 4, "conv2": 8}, asked), GatorConfig())
    for number in (50, 51, 99):
        step = Step(0, 2, number, 100, 0.1)
        gating.before_step(step)
        before = [gating.gates.logit_of(name).clone() for name in gating.gates.groups]
        gating.gates.logit_of("conv1").grad = torch.ones(16)
        gating.after_step(step)
        assert all(map(torch.equal, before, map(gating.gates.logit_of, gating.gates.groups)))
    assert len(asked) == 1


def test_what_stays_whole_until_the_end_is_what_gates_learn_for_all_steps(splits, tmp_path):
    """Without an allocation, and with ``settle=1``, gates learn to the last step."""
    plain = Gator().values(problem(splits, tmp_path / "plain"))
    task = granting(problem(splits, tmp_path / "late"), {"conv1": 1, "conv2": 1})
    late = Gator(GatorConfig(settle=1.0)).values(task)
    assert all((plain.channels[name] == late.channels[name]).all() for name in plain.channels)


def test_the_budget_is_reached_before_the_channels_settle(splits, tmp_path):
    seen = []
    task = granting(problem(splits, tmp_path, epochs=8, seed=3), {"conv1": 8, "conv2": 16}, seen)
    found = Gator(GatorConfig(settle=0.75)).values(task)
    assert found.notes["expected_ratio"] < 0.7
    assert any(count < 16 for count in seen[0].open_counts.values())
    assert found.open_counts == {"conv1": 8, "conv2": 16}


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_run_that_was_killed_on_either_side_of_it_goes_on_to_the_bit(splits, tmp_path, killed_after):
    class StoppedError(Exception):
        pass

    class Stop(Callback):
        def after_epoch(self, record):
            if record.epoch == killed_after + 1:
                raise StoppedError

    def task(name):
        return granting(problem(splits, tmp_path / name, epochs=4), {"conv1": 8, "conv2": 8})

    config = GatorConfig(settle=0.5)
    whole = task("whole")
    expected = Gator(config).values(whole)
    with pytest.raises(StoppedError):
        Gator(config).values(dataclasses.replace(task("killed"), callbacks=(Stop(),)))
    again = task("killed")
    found = Gator(config).values(again)
    assert all((expected.channels[name] == found.channels[name]).all() for name in expected.channels)
    states = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
