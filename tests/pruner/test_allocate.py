import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model import Channels, ConvShape, NetworkCost, Site
from latency_model.errors import BudgetError
from pruner.allocate import _unrounded, allocate, choices, minimum
from pruner.candidates import joint_candidates
from pruner.cost import Cost, macs_cost, params_cost
from pruner.programme import Solution


def chain(sizes: list[int], *, blocks: bool) -> NetworkCost:
    """An image, a stem and convolutions between consecutive groups; with a block, back to the stem's group."""
    names = [f"g{i}" for i in range(len(sizes))]
    sites, before = [], Channels(3)
    for name, size in zip(names, sizes, strict=True):
        into = 3 if before.fixed else sizes[len(sites) - 1]
        out = Channels(terms=((name, 1),))
        sites.append(Site(name, ConvShape(1, into, 8, 8, size), before, out))
        before = out
    if blocks:
        stem = Channels(terms=((names[0], 1),))
        sites.append(Site("close", ConvShape(1, sizes[-1], 8, 8, sizes[0]), before, stem))
    return NetworkCost("chain", tuple(sites), dict(zip(names, sizes, strict=True)))


def stairs(network: NetworkCost, rng: np.random.Generator, step: int) -> Cost:
    matrices = {}
    for site in network.sites:
        a = np.arange(site.shape.in_channels + 1)[:, None]
        b = np.arange(site.shape.out_channels + 1)[None, :]
        matrices[site.name] = np.ceil(a / step) * np.ceil(b / step) * rng.uniform(1, 3)
    return Cost("latency", network, matrices, scale=1.1, constant=0.5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([4, 6, 8]), min_size=2, max_size=4),
    share=st.floats(0.3, 1.0),
    seed=st.integers(0, 1000),
)
def test_equals_brute_force(sizes, share, seed):
    rng = np.random.default_rng(seed)
    network = chain(sizes, blocks=True)
    cost = stairs(network, rng, 2)
    channels = {name: rng.uniform(0.1, 1, size) for name, size in network.groups.items()}
    inner = tuple(network.groups)[1:]
    blocks = {"block": inner}
    floors = dict.fromkeys(network.groups, 2)
    limit = share * cost.full

    def worth(counts):
        return sum(np.sort(channels[g])[::-1][:n].sum() for g, n in counts.items())

    options = joint_candidates([cost], floors=floors)
    every = [
        dict(zip(network.groups, choice, strict=True))
        for choice in itertools.product(
            *([0, *options[g]] if g in inner else options[g] for g in network.groups)
        )
    ]
    legal = [c for c in every if len({c[g] == 0 for g in inner}) == 1 and cost.value(c) <= limit + 1e-9]
    if not legal:
        with pytest.raises(BudgetError, match="the least is"):
            allocate([(cost, limit)], channels, blocks, floors=floors, slack=1.0)
        return
    best = max(map(worth, legal))
    found = allocate([(cost, limit)], channels, blocks, floors=floors, slack=1.0)
    assert found.value >= best * (1 - 1e-3)
    assert cost.value(found.counts) <= limit * (1 + 1e-6)
    assert found.costs[0] == pytest.approx(cost.value(found.counts))
    assert (found.blocks == ("block",)) == all(found.counts[g] == 0 for g in inner)
    # Hardware-friendly: one more channel anywhere costs something.
    for group, size in network.groups.items():
        if 0 < found.counts[group] < size:
            more = {**found.counts, group: found.counts[group] + 1}
            assert cost.value(more) > cost.value(found.counts)


def test_minimum_removes_the_block():
    network = chain([8, 8], blocks=True)
    cost = stairs(network, np.random.default_rng(0), 2)
    floors = dict.fromkeys(network.groups, 2)
    assert minimum([cost], {"block": ("g1",)}, floors=floors) == pytest.approx(cost.value({"g0": 2, "g1": 0}))
    assert minimum([cost], {}, floors=floors) == pytest.approx(cost.value({"g0": 2, "g1": 2}))


def test_the_lower_side_of_the_budget_is_used_when_it_can_be():
    network = chain([16, 16, 16], blocks=False)
    cost = macs_cost(network)
    # All value in one channel: without the lower side nothing more would be bought.
    channels = {name: np.eye(16)[0] for name in network.groups}
    found = allocate(
        [(cost, 0.6 * cost.full)], channels, {}, floors=dict.fromkeys(network.groups, 1), slack=0.1
    )
    assert 0.54 <= found.costs[0] / cost.full <= 0.6


def test_two_budgets_hold_at_once():
    network = chain([16, 16, 16], blocks=False)
    macs, params = macs_cost(network), params_cost(network)
    latency = stairs(network, np.random.default_rng(1), 4)
    channels = {name: np.ones(16) for name in network.groups}
    limits = [(latency, 0.8 * latency.full), (params, 0.5 * params.full), (macs, 0.5 * macs.full)]
    found = allocate(limits, channels, {}, floors=dict.fromkeys(network.groups, 1))
    assert all(value <= limit * (1 + 1e-6) for value, (_, limit) in zip(found.costs, limits, strict=True))


def concatenation(sizes: tuple[int, int, int], fixed: int) -> NetworkCost:
    """Two convolutions of the image whose outputs, and ``fixed`` channels more, feed a third, and itself a fourth."""
    parts = Channels(fixed, (("a", 1), ("b", 2)))
    a, b, c = sizes
    wide = fixed + a + 2 * b
    sites = (
        Site("a", ConvShape(1, 3, 8, 8, a), Channels(3), Channels(terms=(("a", 1),))),
        Site("b", ConvShape(1, 3, 8, 8, b), Channels(3), Channels(terms=(("b", 1),))),
        Site("mid", ConvShape(1, wide, 8, 8, wide, groups=wide), parts, parts),
        Site("c", ConvShape(1, wide, 8, 8, c), parts, Channels(terms=(("c", 1),))),
    )
    return NetworkCost("concat", sites, dict(zip("abc", sizes, strict=True)))


def stairs_of(network: NetworkCost, rng: np.random.Generator, step: int) -> Cost:
    matrices = dict(stairs(network, rng, step).matrices)
    for site in network.sites:
        if site.shape.depthwise:
            matrices[site.name] = np.ceil(np.arange(site.shape.in_channels + 1) / step) * rng.uniform(1, 3)
    return Cost("latency", network, matrices, constant=0.5)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.tuples(*[st.sampled_from([4, 6, 8])] * 3),
    fixed=st.sampled_from([0, 3]),
    share=st.floats(0.35, 1.0),
    step=st.sampled_from([2, 3, 4]),
    seed=st.integers(0, 1000),
)
def test_concatenated_groups_equal_brute_force(sizes, fixed, share, step, seed):
    rng = np.random.default_rng(seed)
    network = concatenation(sizes, fixed)
    cost = stairs_of(network, rng, step)
    channels = {name: rng.uniform(0.1, 1, size) for name, size in network.groups.items()}
    floors = dict.fromkeys(network.groups, 1)
    limit = share * cost.full

    def worth(counts):
        return sum(np.sort(channels[g])[::-1][:n].sum() for g, n in counts.items())

    options = choices([cost], {}, floors=floors)
    every = [dict(zip(options, choice, strict=True)) for choice in itertools.product(*options.values())]
    fits = [counts for counts in every if cost.value(counts) <= limit * (1 + 1e-9)]
    if not fits:
        with pytest.raises(BudgetError):
            allocate([(cost, limit)], channels, {}, floors=floors)
        return
    found = allocate([(cost, limit)], channels, {}, floors=floors)
    assert found.costs[0] <= limit * (1 + 1e-6)
    # The budget is to be used where it can be: of those that use it the most valuable.
    used = [counts for counts in fits if cost.value(counts) >= 0.985 * limit] or fits
    assert found.value >= max(map(worth, used)) * (1 - 2e-4) - 1e-9
    for group, size in network.groups.items():
        for more in range(found.counts[group] + 1, size + 1):
            assert cost.value({**found.counts, group: more}) > found.costs[0] * (1 + 1e-9)


def test_many_concatenated_groups_use_the_budget():
    """Thirty groups in one sum of 480: more sums than candidates, which are rounded up, and yet the budget is used."""
    names = [f"g{i}" for i in range(30)]
    parts = Channels(terms=tuple((name, 1) for name in names))
    sites = [
        Site(name, ConvShape(1, 3, 8, 8, 16), Channels(3), Channels(terms=((name, 1),))) for name in names
    ]
    last = Site("last", ConvShape(1, 480, 8, 8, 64), parts, Channels(terms=(("last", 1),)))
    network = NetworkCost("dense", (*sites, last), dict.fromkeys(names, 16) | {"last": 64})
    cost, rng = macs_cost(network), np.random.default_rng(0)
    channels = {name: rng.uniform(0.1, 1, size) for name, size in network.groups.items()}
    floors = dict.fromkeys(network.groups, 2)
    for share in (0.7, 0.45):
        found = allocate([(cost, share * cost.full)], channels, {}, floors=floors)
        assert 0.975 * share < found.costs[0] / cost.full <= share * (1 + 1e-9)


class Scripted:
    """A programme whose solutions cost what is given, rounded up and really, in turn; it keeps its bounds."""

    def __init__(self, *solutions):
        self.solutions, self.bounds = list(solutions), []

    def solve(self, worth, bounds, *, seconds):
        self.bounds.append(bounds[0][1])
        rounded, real = self.solutions.pop(0)
        return None if rounded is None else solution(rounded, real)


def solution(rounded, real):
    return Solution(counts={"a": real}, costs=(rounded,), gap=0.0)


class Count:
    def value(self, counts):
        return float(counts["a"])


@pytest.mark.parametrize(
    ("script", "kept", "bounds"),
    [
        # What was rounded away is asked for again until it is used: 60 of 100 used, then 80, then 99.
        ([(160, 80), (170, 99)], 99, [100 * 100 / 60, 100 * 160 / 80]),
        # More than the bound, or nothing: the last one that holds stays.
        ([(160, 80), (230, 110)], 80, [100 * 100 / 60, 100 * 160 / 80]),
        ([(160, 80), (None, None)], 80, [100 * 100 / 60, 100 * 160 / 80]),
        # Nothing was rounded away: nothing is left to be had.
        ([(80, 80)], 80, [100 * 100 / 60]),
        # Not for ever.
        ([(160, 70), (170, 75), (180, 80), (190, 85)], 80, [100 * 100 / 60, 100 * 160 / 70, 100 * 170 / 75]),
    ],
)
def test_what_rounding_left_is_asked_for_again(script, kept, bounds):
    programme = Scripted(*script)
    found = _unrounded(
        programme, np.ones(1), [(Count(), 100.0)], solution(100.0, 60), slack=0.02, seconds=1.0
    )
    assert found.counts == {"a": kept}
    assert programme.bounds == pytest.approx(bounds)
