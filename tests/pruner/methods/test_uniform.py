import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model import ConvShape, NetworkCost, Site
from latency_model.errors import BudgetError, InputError
from latency_model.network import Channels
from pruner.confidence import allocate_within
from pruner.cost import Cost, macs_cost
from pruner.methods import Values, open_method
from pruner.setting import prepare
from pruner.shares import allocate_shares


def chain(*sizes):
    """A chain of convolutions: group gI writes what conv I+1 reads."""
    groups = {f"g{i}": size for i, size in enumerate(sizes)}
    sites, before = [], Channels(3)
    for i, size in enumerate(sizes):
        into = 3 if i == 0 else sizes[i - 1]
        after = Channels(0, ((f"g{i}", 1),))
        sites.append(Site(f"conv{i}", ConvShape(1, into, 8, 8, size), before, after))
        before = after
    return macs_cost(NetworkCost("chain", tuple(sites), groups))


def test_every_group_gets_the_same_share_and_the_order_of_l1(problem):
    made = problem()
    values = open_method("uniform").values(made).check(made.graph, method="uniform")
    assert set(values.shares.values()) == {1.0}
    assert values.shares.keys() == made.graph.groups.keys()
    ranked = open_method("l1").values(made).channels
    assert all(np.array_equal(values.channels[name], ranked[name]) for name in ranked)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 24), min_size=1, max_size=4),
    step=st.integers(1, 6),
    ratio=st.floats(0.1, 0.99),
    seed=st.integers(0, 9),
)
def test_counts_are_the_nearest_to_the_largest_affordable_factor(sizes, step, ratio, seed):
    """Against a walk: raise the factor bit by bit, take the nearest counts, stop at the first that is too dear."""
    random = np.random.default_rng(seed)
    cost = chain(*sizes)
    shares = {name: float(random.choice([1.0, 0.5])) for name in cost.network.groups}
    choices = {n: (0, *range(min(step, s), s, step), s) for n, s in cost.network.groups.items()}
    channels = {name: random.random(size) for name, size in cost.network.groups.items()}
    limit = ratio * cost.full
    least = {name: min(c for c in counts if c) for name, counts in choices.items()}
    if cost.value(least) > limit:
        with pytest.raises(BudgetError, match="with these shares"):
            allocate_shares([(cost, limit)], channels, shares, choices)
        return
    found = allocate_shares([(cost, limit)], channels, shares, choices)
    assert found.costs[0] <= limit * (1 + 1e-9)
    assert found.costs == (cost.value(found.counts),)

    def nearest(factor):
        return {
            name: min((abs(c - factor * shares[name] * size), -c) for c in choices[name] if c)[1] * -1
            for name, size in cost.network.groups.items()
        }

    factors = np.linspace(0, 2.5, 5001)
    affordable = [f for f in factors if cost.value(nearest(f)) <= limit]
    below = nearest(affordable[-1])
    above = nearest(min(factors[-1], affordable[-1] + 2 * (factors[1] - factors[0])))
    # Only groups that step at the very factor where the budget ends may be further on, the first ones first.
    assert all(below[name] <= found.counts[name] <= above[name] for name in below)
    stepped = [found.counts[name] > below[name] for name in below if above[name] > below[name]]
    assert all(a >= b for a, b in itertools.pairwise(stepped)) or len(set(shares.values())) > 1


def test_equal_groups_differ_by_one_step_at_most_and_the_budget_is_used():
    cost = chain(16, 16, 16, 16)
    choices = dict.fromkeys(cost.network.groups, (0, 4, 8, 12, 16))
    channels = {name: np.ones(16) for name in choices}
    shares = dict.fromkeys(choices, 1.0)
    for ratio in (0.2, 0.35, 0.5, 0.65, 0.8):
        counts = allocate_shares([(cost, ratio * cost.full)], channels, shares, choices).counts
        assert max(counts.values()) - min(counts.values()) <= 4
        assert sorted(counts.values(), reverse=True) == list(counts.values())
        name = min(counts, key=lambda n: counts[n])
        more = {**counts, name: counts[name] + 4}
        assert cost.value(more) > ratio * cost.full


def test_plateaus_are_filled():
    """On a staircase the count is the last one of its step, whatever the share says."""
    shape = ConvShape(1, 3, 8, 8, 16)
    site = Site("conv", shape, Channels(3), Channels(0, (("g", 1),)))
    stairs = np.ceil(np.arange(17) / 8) * np.ones((4, 1)) * 10
    cost = Cost("latency", NetworkCost("one", (site,), {"g": 16}), {"conv": stairs})
    found = allocate_shares([(cost, 10.0)], {"g": np.ones(16)}, {"g": 1.0}, {"g": (2, 4, 16)})
    assert found.counts == {"g": 8}


def test_values_that_cannot_be_used_are_named(problem):
    graph = problem().graph
    sizes = {name: np.ones(group.size) for name, group in graph.groups.items()}
    with pytest.raises(InputError, match=r"the method m must give 6 .* for the group stem; it gave none"):
        Values({}).check(graph, method="m")
    with pytest.raises(InputError, match=r"group inner; it gave an array of shape \(4,\)"):
        Values(sizes | {"inner": np.ones(4)}).check(graph, method="m")
    with pytest.raises(InputError, match="non-negative values for the group up"):
        Values(sizes | {"up": np.array([1, 1, -1, 1])}).check(graph, method="m")
    with pytest.raises(InputError, match="a share above 0 for the group inner"):
        Values(sizes, shares={"stem": 1.0}).check(graph, method="m")


def test_the_allocation_of_a_run_takes_shares(kit, tmp_path):
    """On a device's table: within the budget, on its efficient counts, at nearly one share, no block gone."""
    kit.table().save(tmp_path / "table.parquet")
    setting = prepare("tiny", weights=None, table=tmp_path / "table.parquet", budget="latency=0.7x")
    sizes = setting.graph.sizes()
    values = {name: np.random.default_rng(0).random(size) for name, size in sizes.items()}
    limit = 0.7 * setting.cost.full
    found = allocate_within(setting, limit, values, shares=dict.fromkeys(sizes, 1.0))
    assert found.costs[0] <= limit
    assert found.blocks == ()
    assert all(found.counts[name] in counts for name, counts in setting.choices.items())
    assert found.costs[0] > 0.85 * limit
    kept = [count / sizes[name] for name, count in found.counts.items()]
    assert max(kept) - min(kept) < 0.3
    free = allocate_within(setting, limit, values)
    assert free.counts != found.counts
