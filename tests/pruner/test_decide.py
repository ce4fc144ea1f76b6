import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_model.errors import BudgetError, GharialError
from pruner.candidates import group_profile
from pruner.decide import ATTEMPTS, TOLERANCE, cut, decide
from pruner.oracle import CheckResult, check
from pruner.proof import Proof
from pruner.setting import prepare


@pytest.fixture
def ready(kit, tmp_path):
    def make(budget, **options):
        path = tmp_path / "table.parquet"
        kit.table(**options).save(path)
        return prepare("tiny", weights=None, table=path, budget=budget)

    return make


def values_of(setting, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.1, 1, group.size) for name, group in setting.graph.groups.items()}


def counts_of(setting, small):
    """The channel counts of a cut network, read off its modules."""
    modules = dict(small.named_modules())
    return {
        name: modules[name].out_channels if name in modules else 0 for name in setting.latency.network.groups
    }


class Clock:
    """Stands for a device: `after` makes the measured ratio from the predicted one."""

    def __init__(self, kit, setting, after, *, full_us=1000.0):
        self.kit, self.setting, self.after, self.full_us, self.networks = kit, setting, after, full_us, []

    def __call__(self, small):
        self.networks.append(counts_of(self.setting, small))
        predicted = self.setting.latency.value(self.networks[-1]) / self.setting.latency.full
        row = self.kit.device().measure(self.setting.latency.network.sites[0].shape, run_id="test")
        ratio = self.after(predicted, len(self.networks))
        times = dict.fromkeys(("latency_us", "low_us", "high_us"), self.full_us)
        before = dataclasses.replace(row, **times)
        return Proof(before, dataclasses.replace(row, **{name: ratio * us for name, us in times.items()}))


def decided(kit, setting, after, seed=0):
    clock = Clock(kit, setting, after)
    return decide(setting, values_of(setting, seed), clock, method="stub", seed=seed), clock


def test_a_device_that_agrees_is_asked_once(kit, ready):
    setting = ready("latency=0.6x")
    decision, clock = decided(kit, setting, lambda predicted, _: predicted)
    assert len(clock.networks) == 1
    assert decision.notes == ()
    assert decision.proof.ratio == pytest.approx(0.6, rel=TOLERANCE)
    assert decision.plan.predicted["latency"] / decision.plan.predicted["latency_before"] <= 0.6 + 1e-9
    assert (decision.plan.method, decision.plan.budget) == ("stub", "latency=0.6x")


@pytest.mark.parametrize("factor", [1.1, 0.92])
def test_a_device_that_is_off_by_a_factor_is_corrected_for(kit, ready, factor):
    setting = ready("latency=0.6x")
    decision, clock = decided(kit, setting, lambda predicted, _: factor * predicted)
    assert decision.proof.ratio == pytest.approx(0.6, rel=TOLERANCE)
    assert 1 < len(clock.networks) <= ATTEMPTS
    assert decision.notes == (
        f"the allocation was repeated with the measured correction: {len(clock.networks)} networks were timed",
    )
    # The plan that comes back is one that was timed, and the last one of these.
    assert decision.plan.counts(setting.graph) == clock.networks[-1]


def test_an_absolute_budget_is_one_of_the_clock(kit, ready):
    """The clock says that the whole network takes a tenth longer than the table has it."""
    full = ready("latency=1x").latency.full
    setting = ready(f"latency={0.7 * full}us")
    clock = Clock(kit, setting, lambda predicted, _: predicted, full_us=1.1 * full)
    decision = decide(setting, values_of(setting), clock, method="stub", seed=0)
    assert decision.proof.after.latency_us == pytest.approx(0.7 * full, rel=TOLERANCE)
    assert len(clock.networks) > 1


def test_a_device_that_never_agrees_ends_with_a_plain_note(kit, ready):
    setting = ready("latency=0.6x")
    decision, clock = decided(kit, setting, lambda predicted, attempt: 0.9 if attempt % 2 else 0.4)
    assert len(clock.networks) == ATTEMPTS
    # 0.4 misses by a third, 0.9 by half, and over the budget counts more.
    assert decision.proof.ratio == pytest.approx(0.4)
    assert decision.notes[-1] == (
        f"the measured ratio 0.400 misses the budget 0.600 by more than 2% after {ATTEMPTS} allocations"
    )


def test_a_device_on_which_nothing_helps_ends_with_the_best_that_was_timed(kit, ready):
    setting = ready("latency=0.6x")
    decision, clock = decided(kit, setting, lambda predicted, attempt: 1.0)
    assert 1 <= len(clock.networks) <= ATTEMPTS
    assert "misses the budget" in decision.notes[-1]


def test_at_a_confidence_a_device_below_the_budget_is_right(kit, ready):
    setting = ready("latency=0.6x@95%")
    decision, clock = decided(kit, setting, lambda predicted, _: predicted)
    assert len(clock.networks) == 1
    assert decision.notes == ()
    said = decision.plan.predicted
    assert decision.plan.budget == "latency=0.6x@95%"
    assert said["confidence"] == 0.95
    assert said["latency_bound"] <= 0.6 * said["latency_before"] * (1 + 1e-6)
    margin = setting.margin(clock.networks[0])
    assert said["latency_bound"] == pytest.approx(said["latency"] * (1 + margin))
    assert 0.05 < margin < 0.15


def test_at_a_confidence_only_a_device_above_the_budget_is_corrected_for(kit, ready):
    setting = ready("latency=0.6x@95%")
    # Within the margin of some 8 %: nothing to do.
    decision, clock = decided(kit, setting, lambda predicted, _: 1.03 * predicted)
    assert len(clock.networks) == 1
    # Beyond it.
    decision, clock = decided(kit, setting, lambda predicted, _: 1.2 * predicted)
    assert len(clock.networks) == 2
    assert decision.proof.ratio <= 0.6
    assert decision.plan.counts(setting.graph) == clock.networks[-1]
    # One per cent over is over, and is corrected to what is below.
    decision, clock = decided(kit, setting, lambda predicted, attempt: 0.606 if attempt == 1 else 0.5)
    assert decision.proof.ratio == 0.5 and len(clock.networks) == 2
    decision, clock = decided(kit, setting, lambda predicted, attempt: 0.7)
    assert decision.notes[-1].startswith("the measured ratio 0.700 misses the budget 0.600 after")


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_an_exact_metric_is_measured_once_whatever_the_clock_says(kit, ready, metric):
    setting = ready(f"{metric}=0.5x")
    decision, clock = decided(kit, setting, lambda predicted, _: 3 * predicted)
    assert len(clock.networks) == 1
    assert decision.notes == ()
    assert 0.45 * setting.cost.full <= setting.cost.value(clock.networks[0]) <= 0.5 * setting.cost.full


def test_an_impossible_budget_is_an_error_and_nothing_is_timed(kit, ready):
    setting = ready("latency=1x")
    setting = dataclasses.replace(setting, budget=dataclasses.replace(setting.budget, value=0.001))
    with pytest.raises(BudgetError, match="the least is"):
        decided(kit, setting, lambda *_: pytest.fail("timed"))


def test_a_cut_that_the_oracle_refuses_is_not_returned(kit, ready, monkeypatch):
    import pruner.decide

    setting = ready("latency=0.6x")
    monkeypatch.setattr(pruner.decide, "check", lambda *_, **__: CheckResult(0.5, False, 1e-5, 1))
    with pytest.raises(GharialError, match="differs from the masked one"):
        decided(kit, setting, lambda predicted, _: predicted)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.floats(0.35, 0.95),
    seed=st.integers(0, 1000),
    factor=st.floats(0.9, 1.1),
    metric=st.sampled_from(["latency", "latency", "macs"]),
)
def test_every_plan_passes_the_oracle_and_leaves_no_free_channel(kit, ready, share, seed, factor, metric):
    setting = ready(f"{metric}={share}x", tile_in=4, tile_out=8, noise=0.003)
    decision, clock = decided(kit, setting, lambda predicted, _: factor * predicted, seed=seed)
    assert 1 <= len(clock.networks) <= ATTEMPTS
    plan = decision.plan
    keep = plan.keep(setting.graph)
    assert check(setting.module, setting.graph, keep, plan.blocks, inputs=images(seed)).ok
    counts = plan.counts(setting.graph)
    assert counts_of(setting, cut(setting, plan)) == counts
    cost = setting.cost
    assert decision.allocation.costs[0] == pytest.approx(cost.value(counts))
    for group, size in cost.network.groups.items():
        if not 0 < counts[group] < size:
            continue
        assert counts[group] >= setting.floors[group]
        # One more channel costs something here, and more than the noise with the other groups whole.
        assert cost.value({**counts, group: counts[group] + 1}) > cost.value(counts)
        profile = group_profile(cost, group)
        assert profile[counts[group] + 1] > profile[counts[group]] * 1.005, group


def images(seed):
    return torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def test_every_budget_holds(kit, ready):
    setting, alone = ready("params=0.45x,latency=0.8x"), ready("latency=0.8x")
    decision, _ = decided(kit, setting, lambda predicted, _: predicted)
    (params, limit), counts = setting.other_limits[0], decision.plan.counts(setting.graph)
    assert params.value(counts) <= limit * (1 + 1e-9)
    assert decision.proof.ratio <= 0.8 * 1.03
    predicted = decision.plan.predicted
    assert predicted["params"] == pytest.approx(params.value(counts))
    assert predicted["params_before"] == params.full
    assert decision.plan.budget == "latency=0.8x,params=0.45x"
    free, _ = decided(kit, alone, lambda predicted, _: predicted)
    assert params.value(free.plan.counts(alone.graph)) > limit


def test_another_budget_below_the_minimum_names_it(ready):
    with pytest.raises(BudgetError, match=r"params are below what tiny can reach: the least is"):
        ready("latency=0.8x,params=10")


@pytest.mark.parametrize("budget", ["macs=0.7x", "macs=0.5x", "params=0.6x", "macs=0.8x,params=0.7x"])
def test_a_budget_of_work_is_met_with_counts_that_the_device_runs_well(kit, ready, budget):
    setting = ready(budget, tile_in=4, tile_out=4)
    decision, _ = decided(kit, setting, lambda predicted, _: predicted)
    counts = decision.allocation.counts
    for group, count in counts.items():
        profile = group_profile(setting.latency, group)
        if count:
            assert count == setting.graph.groups[group].size or profile[count + 1] > profile[count] * 1.001
    assert setting.cost.value(counts) <= setting.budget.target(setting.cost.full)


def test_a_budget_that_efficient_counts_miss_is_met_with_others(kit, ready):
    # All counts of a group but the largest cost the same: none of them is efficient but the full one.
    coarse = ready("macs=0.05x", tile_in=64, tile_out=64, step=8)
    assert coarse.stairs is None
    fine = ready("macs=0.7x")
    assert fine.stairs is fine.latency
    assert ready("latency=0.7x").stairs is None
    assert ready("latency=0.9x,macs=0.7x").stairs is None
