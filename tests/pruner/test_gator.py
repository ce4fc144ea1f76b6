import dataclasses

import pytest
import torch
from gator_things import network, problem, stairs
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import DataError
from pruner.cost import macs_cost, params_cost
from pruner.data import load_data
from pruner.methods import method_names, open_method
from pruner.methods.gating import Gating, fall_work, mean_slope
from pruner.methods.gator import Gator, GatorConfig
from pruner.methods.prices import HalfWidthPrice, TablePrice, half_width_multipliers
from pruner.training import Step


@pytest.fixture(scope="module")
def splits():
    return load_data("digits", quiet=True)


@pytest.mark.parametrize(("keep", "slope"), [(0.995, 0.01699), (0.99, 0.02772), (0.8, 0.1380), (0.5, 1 / 6)])
def test_mean_slope_is_the_closed_form(keep, slope):
    assert mean_slope(torch.tensor([keep])).item() == pytest.approx(slope, rel=1e-3)


def test_price_looks_across_a_plateau(splits, tmp_path):
    """Where the exact expectation of a staircase is flat, the minorant still charges for a channel."""
    graph = problem(splits, tmp_path).graph
    price = TablePrice(stairs(graph))
    keep = {name: torch.full((size,), 0.999999) for name, size in graph.sizes().items()}
    ratio, far = price(keep, 0.0)
    assert ratio == pytest.approx(1.0, abs=1e-4)
    assert all(value > 0.01 for value in far.values())
    flat = {name: p.clone() for name, p in keep.items()}
    for p in flat.values():
        p[:4] = 0.0
    _, near = price(flat, 1.0)
    assert all(abs(value) < 1e-4 for value in near.values())


def test_price_is_the_marginal_cost(splits, tmp_path):
    graph = problem(splits, tmp_path).graph
    cost = macs_cost(network(graph))
    keep = {name: torch.ones(size) for name, size in graph.sizes().items()}
    ratio, prices = TablePrice(cost)(keep, 1.0)
    assert ratio == pytest.approx(1.0)
    for name, size in graph.sizes().items():
        step = (cost.full - cost.value({name: size - 1})) / cost.full
        assert prices[name] == pytest.approx(step, rel=1e-6)


def test_reaches_the_budget_and_keeps_what_matters(splits, tmp_path):
    # A seed with which both groups lose channels: with others one of them can stay whole.
    values = Gator().values(problem(splits, tmp_path, epochs=8, seed=3))
    assert values.notes["expected_ratio"] == pytest.approx(0.5, abs=0.12)
    assert any(count < len(values.channels[name]) for name, count in values.open_counts.items())
    for worth in values.channels.values():
        assert (worth >= 0).all()
        assert worth.max() > 2 * worth.min()


def test_same_seed_same_values_and_resume_is_exact(splits, tmp_path):
    whole = Gator().values(problem(splits, tmp_path / "a", epochs=3)).channels
    again = Gator().values(problem(splits, tmp_path / "b", epochs=3)).channels
    other = Gator().values(problem(splits, tmp_path / "c", epochs=3, seed=1)).channels
    assert all((whole[name] == again[name]).all() for name in whole)
    assert any((whole[name] != other[name]).any() for name in whole)

    class StoppedError(Exception):
        pass

    stopped = problem(splits, tmp_path / "d", epochs=3)
    real = stopped.splits.train.batches

    def batches(*args, epoch, **options):
        if epoch == 2:
            raise StoppedError
        return real(*args, epoch=epoch, **options)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(stopped.splits.train, "batches", batches)
        Gator().values(stopped)
    resumed = Gator().values(problem(splits, tmp_path / "d", epochs=3)).channels
    assert all((whole[name] == resumed[name]).all() for name in whole)


@settings(max_examples=30, deadline=None)
@given(
    logits=st.lists(st.floats(-6, 5), min_size=32, max_size=32),
    step=st.integers(0, 99),
    data=st.data(),
)
def test_masks_close_below_one_half_for_good_and_never_past_the_target(splits, logits, step, data):
    task = problem(splits, None)
    gating = Gating(task, GatorConfig())
    for number, name in enumerate(gating.gates.groups):
        with torch.no_grad():
            gating.gates.logit_of(name).copy_(torch.tensor(logits[16 * number : 16 * number + 16]))
    closed = data.draw(st.integers(0, 10))
    gating.gates.mask_of("conv1")[:closed] = 0
    now = Step(0, 1, step, 100, 0.1)
    before = {name: gating.gates.mask_of(name).clone() for name in gating.gates.groups}
    cost_before = gating.duals[0].price.value(before)
    gating.before_step(now)
    after = {name: gating.gates.mask_of(name) for name in gating.gates.groups}
    for name, mask in after.items():
        assert (mask <= before[name]).all()
        shut = (mask == 0) & (before[name] > 0)
        assert (gating.gates.logit_of(name)[shut] < 0).all()
        assert mask.sum() >= min(gating.floors[name], before[name].sum())
    assert gating.duals[0].price.value(after) >= min(cost_before, gating.duals[0].target(step, 100)) - 1e-9


def test_leaves_no_hooks(splits, tmp_path):
    task = problem(splits, tmp_path, epochs=1)
    Gator().values(task)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in task.model.modules())


def test_needs_data(splits, tmp_path):
    with pytest.raises(DataError, match="--data"):
        Gator().values(dataclasses.replace(problem(splits, tmp_path), splits=None))


def test_l1_values_are_norms(splits, tmp_path):
    task = problem(splits, tmp_path)
    with torch.no_grad():
        task.model.conv1.weight[3] = 0
        task.model.conv1.weight[5] *= 10
    values = open_method("l1").values(task).channels["conv1"]
    assert values.argmin() == 3 and values.argmax() == 5 and values[3] == 0


def test_every_method_opens():
    for name in method_names():
        method = open_method(name)
        assert method.name == name
        assert isinstance(method.needs_data, bool) and isinstance(method.trains, bool)
    assert GatorConfig().initial_keep == 0.995


def test_half_width_prices_are_marginal_macs_times_multipliers(splits, tmp_path):
    graph = problem(splits, tmp_path).graph
    cost = stairs(graph)
    price = HalfWidthPrice(cost)
    assert price.multipliers == half_width_multipliers(cost)
    keep = {name: torch.full((size,), 0.9) for name, size in graph.sizes().items()}
    ratio, prices = price(keep, 0.0)
    _, macs = TablePrice(macs_cost(network(graph)))(keep, 0.0)
    assert ratio == TablePrice(cost)(keep, 0.0)[0]
    assert price.value(keep) == TablePrice(cost).value(keep)
    for name in graph.sizes():
        assert prices[name] == pytest.approx(price.multipliers[name] * macs[name])


def test_fixed_stages_are_walked_in_equal_shares(splits, tmp_path):
    gating = Gating(problem(splits, tmp_path), GatorConfig(stages=(0.25, 0.5, 2.0)))
    weights = []
    for step in range(9):
        gating.before_step(Step(0, 1, step, 9, 0.1))
        weights.append(gating.weight)
    assert weights == [0.25] * 3 + [0.5] * 3 + [2.0] * 3
    assert gating.duals[0].target(3, 9) == 0.0


def test_a_larger_fixed_lambda_closes_more(splits, tmp_path):
    ratios = []
    for stages in ((0.02,), (20.0,)):
        task = problem(splits, tmp_path / str(stages[0]), epochs=4)
        ratios.append(Gator(GatorConfig(stages=stages, fall=0.5)).values(task).notes["expected_ratio"])
    assert ratios[1] < ratios[0] - 0.05


def test_two_budgets_are_both_met(splits, tmp_path):
    task = problem(splits, tmp_path, epochs=8)
    params = params_cost(network(task.graph))
    # Parameters are all in the second convolution, multiply-accumulates are not: the first budget alone leaves more.
    alone = Gator().values(task)
    both = dataclasses.replace(task, state_dir=tmp_path / "both", others=((params, 0.3),))
    both = dataclasses.replace(both, model=problem(splits, tmp_path).model)
    found = Gator().values(both)
    assert found.notes["expected_ratio_params"] == pytest.approx(0.3, abs=0.1)
    assert found.notes["expected_ratio"] < alone.notes["expected_ratio"] + 0.05
    assert found.notes["lambda_params"] > found.notes["lambda"]


def test_a_channel_costs_the_mean_of_the_budgets_prices_by_their_weights(splits, tmp_path):
    task = problem(splits, tmp_path)
    params = params_cost(network(task.graph))
    gating = Gating(dataclasses.replace(task, others=((params, 0.3),)), GatorConfig(stages=(1.0,)))
    gating.before_step(Step(0, 1, 0, 9, 0.1))
    keep = gating.gates.keep()
    first, second = (TablePrice(cost)(keep, 0.0)[1] for cost in (task.cost, params))
    for name, price in gating.prices.items():
        assert price == pytest.approx((first[name] + second[name]) / 2)


def test_the_step_of_all_groups_in_a_row_is_that_of_each_group_to_the_bit(splits, tmp_path):
    """The rule as written, one group after the other, on what the step began with."""
    gating, config = (
        Gating(problem(splits, tmp_path), GatorConfig(initial_keep=0.9)),
        GatorConfig(initial_keep=0.9),
    )
    torch.manual_seed(0)
    names = list(gating.gates.groups)
    for number in range(5):
        step = Step(0, 1, number, 20, 0.1)
        gating.before_step(step)
        for name in names[number > 2 :]:  # later the first group has no gradient
            gating.gates.logit_of(name).grad = torch.randn(16)
        gating.gates.mask_of(names[1])[number] = 0
        mean = sum(gating.prices.values()) / len(names)
        rate = fall_work(gating.start) / (config.fall * step.steps) * (1 - config.momentum)
        expected = {}
        for name in names:
            logits, mask = gating.gates.logit_of(name).detach().clone(), gating.gates.mask_of(name)
            price = max(gating.prices[name], config.min_price * mean, 1e-9)
            gradient = gating.prices[name] / price * mean_slope(torch.sigmoid(logits))
            if (found := gating.gates.logit_of(name).grad) is not None:
                gradient = gradient + found / (price * gating.weight)
            velocity = gating.velocity[name] * config.momentum + gradient * mask
            move = (-rate * velocity * mask).clamp(-0.5, 0.5)
            drift = gating.drift[name].lerp(move, config.smoothing)
            expected[name] = (logits + move).clamp(-8.0, gating.start), velocity, drift
        gating.after_step(step)
        for name in names:
            found = gating.gates.logit_of(name), gating.velocity[name], gating.drift[name]
            assert all(torch.equal(a, b) for a, b in zip(found, expected[name], strict=True))
        scalars = gating.scalars()
        assert {name: scalars[f"open/{name}"] for name in names} == {
            name: float(gating.gates.mask_of(name).sum()) for name in names
        }
