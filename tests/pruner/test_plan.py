"""Plans: immutable, checked against the graph, the same after a round trip."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.network import Channels
from pruner.graph.types import Block, ChannelGraph, Group
from pruner.plan import Plan

GRAPH = ChannelGraph(
    groups={"a": Group("a", 4, ()), "b.1": Group("b.1", 3, ()), "b.2": Group("b.2", 2, ())},
    sites=(),
    gates=(),
    blocks=(Block("b", ("b.1", "b.2"), (), "b.bn"),),
    frozen=(),
    fingerprint="f",
)


@given(
    st.dictionaries(st.text(max_size=5), st.sets(st.integers(0, 50)).map(tuple)),
    st.lists(st.text(max_size=5)).map(tuple),
    st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_json_round_trip(removed, blocks, predicted):
    plan = Plan("f", removed, blocks, "latency=0.6x", "l1", 3, predicted, "resnet18")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_save_and_load(tmp_path):
    plan = Plan("f", {"a": (2, 0)}, ("b",), predicted={"latency_us": 3.5})
    plan.save(tmp_path / "deep" / "plan.json")
    assert Plan.load(tmp_path / "deep" / "plan.json") == plan
    assert plan.removed["a"] == (0, 2)


def test_keep_and_counts():
    plan = Plan("f", {"a": (1, 3)}, ("b",))
    assert plan.keep(GRAPH) == {"a": (0, 2), "b.1": (), "b.2": ()}
    assert plan.counts(GRAPH) == {"a": 2, "b.1": 0, "b.2": 0}
    assert Channels(1, (("a", 2),)).count(plan.counts(GRAPH)) == 5


def test_emptying_all_groups_of_a_block_is_removing_it():
    assert Plan("f", {"b.1": (0, 1, 2), "b.2": (0, 1)}).counts(GRAPH) == {"a": 4, "b.1": 0, "b.2": 0}


def test_a_plan_cannot_be_changed():
    plan = Plan("f", {"a": (1,)})
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.seed = 1
    with pytest.raises(TypeError):
        plan.removed["a"] = ()


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan("other"), "another model structure"),
        (Plan("f", {"c": (0,)}), "unknown channel group 'c'"),
        (Plan("f", {"a": (4,)}), "channel 4 of group a, which has channels 0 to 3"),
        (Plan("f", {"a": (-1, 2)}), "channel -1 of group a"),
        (Plan("f", {"a": (0, 1, 2, 3)}), "all channels of group a"),
        (Plan("f", {"b.1": (0, 1, 2)}), "all channels of group b.1"),
        (Plan("f", {}, ("x",)), "no removable block 'x'"),
    ],
)
def test_plans_that_do_not_fit(plan, message):
    with pytest.raises(InputError, match=message):
        plan.keep(GRAPH)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not a pruning plan"),
        ({"fingerprint": "f"}, "not a pruning plan"),
        ({"fingerprint": "f", "removed": {}, "format_version": 99}, "later version"),
        ({"fingerprint": "f", "removed": {}, "colour": 1}, "no field 'colour'"),
    ],
)
def test_data_that_is_no_plan(data, message):
    with pytest.raises(InputError, match=message):
        Plan.from_json(data)


def test_a_channel_named_twice():
    with pytest.raises(InputError, match="twice"):
        Plan("f", {"a": (1, 1)})
