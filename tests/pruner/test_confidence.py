import dataclasses
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_model.errors import BudgetError
from pruner.allocate import allocate
from pruner.budget import Budget
from pruner.confidence import allocate_within
from pruner.setting import Setting, prepare


@pytest.fixture
def full(kit, tmp_path):
    path = tmp_path / "whole.parquet"
    kit.table(noise=0.003).save(path)
    return prepare("tiny", weights=None, table=path, budget="latency=1x")


def at(setting, text):
    return dataclasses.replace(setting, budget=Budget.parse(text))


def values_of(setting, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(0.1, 1, group.size) for name, group in setting.graph.groups.items()}


def test_the_margin_is_one_side_of_the_estimate(full):
    assert at(full, "latency=0.6x").margin({}) == 0
    counts = {"branch.conv1": 8}
    estimate = full.model.estimate(full.latency.network, counts, confidence=0.9)
    margin = at(full, "latency=0.6x@95%").margin(counts)
    assert margin == pytest.approx(estimate.high_us / estimate.latency_us - 1)
    # One network was measured, so the model leaves 5 % open: 1.645 standard deviations of it, and the rows'.
    assert margin == pytest.approx(NormalDist().inv_cdf(0.95) * 0.05, rel=0.1)
    assert at(full, "latency=0.6x@99%").margin({}) > margin > at(full, "latency=0.6x@90%").margin({}) > 0


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.floats(0.5, 0.9), percent=st.integers(60, 99), seed=st.integers(0, 99), absolute=st.booleans()
)
def test_the_bound_fits_and_the_budget_is_used(full, share, percent, seed, absolute):
    text = f"latency={share * full.latency.full:.6f}us" if absolute else f"latency={share:.6f}x"
    setting = at(full, f"{text}@{percent}%")
    limit = setting.budget.target(setting.cost.full)
    found = allocate_within(setting, limit, values_of(setting, seed))
    bound = found.costs[0] * (1 + setting.margin(found.counts))
    assert bound <= limit * (1 + 1e-6)
    assert bound >= 0.93 * limit
    plain = allocate_within(at(full, text), limit, values_of(setting, seed))
    # A margin smaller than the step to the next count changes nothing.
    assert found.costs[0] <= plain.costs[0]


def test_without_a_confidence_nothing_changes(full):
    setting = at(full, "latency=0.7x")
    limit, values = 0.7 * full.latency.full, values_of(full)
    plain = allocate([(full.cost, limit)], values, full.blocks, floors=full.floors)
    assert allocate_within(setting, limit, values) == plain
    assert setting.ratio == setting.budget.ratio(full.cost.full)


@pytest.mark.parametrize("rising", [True, False])
def test_a_margin_that_depends_on_the_network_is_taken_at_the_one_found(full, monkeypatch, rising):
    def margin(setting, counts):
        share = setting.latency.value(counts) / setting.latency.full
        return 0.3 - 0.25 * share if rising else 0.02 + 0.2 * share

    monkeypatch.setattr(Setting, "margin", margin)
    setting = at(full, "latency=0.7x@90%")
    limit = 0.7 * full.latency.full
    found = allocate_within(setting, limit, values_of(full))
    bound = found.costs[0] * (1 + setting.margin(found.counts))
    assert 0.93 * limit <= bound <= limit * (1 + 1e-6)


def test_a_margin_that_never_settles_is_an_error(full, monkeypatch):
    margins = iter(np.linspace(0.05, 0.5, 50))
    monkeypatch.setattr(Setting, "margin", lambda *_: next(margins))
    with pytest.raises(BudgetError, match="lower the confidence"):
        allocate_within(at(full, "latency=0.7x@90%"), 0.7 * full.latency.full, values_of(full))


def test_a_budget_that_only_the_margin_breaks_says_so(full, tmp_path):
    path = tmp_path / "table.parquet"
    full.table.save(path)

    def ready(text):
        return prepare("tiny", weights=None, table=path, budget=text)

    with pytest.raises(BudgetError) as caught:
        ready("latency=0.001x")
    least = float(str(caught.value).split("the least is ")[1].split("x")[0])
    ready(f"latency={least * 1.02:.4f}x")
    with pytest.raises(BudgetError, match="the budget's confidence takes"):
        ready(f"latency={least * 1.02:.4f}x@95%")
    # The bound of the whole network is above what its prediction meets.
    whole = full.latency.full
    with pytest.raises(BudgetError, match="already meets"):
        ready(f"latency={1.02 * whole:.3f}us")
    assert ready(f"latency={1.02 * whole:.3f}us@95%").ratio < 1
    with pytest.raises(BudgetError, match="already meets"):
        ready(f"latency={1.2 * whole:.3f}us@95%")
    with pytest.raises(BudgetError, match="must stay"):
        allocate_within(at(full, "latency=0.7x@95%"), 1e-3, values_of(full))
