import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.methods.dual import Dual
from pruner.methods.gator import GatorConfig
from pruner.training import Step


class Mean:
    """The cost is the mean keep probability of the one group, a channel costs as much everywhere."""

    def __call__(self, keep, sharpness):
        return self.value(keep), {"a": 1.0}

    def value(self, keep):
        return float(keep["a"].mean())


def dual(budget=0.5, **config):
    return Dual(Mean(), SimpleNamespace(metric="latency", full=1.0), budget, GatorConfig(**config))


def at(step, steps=100):
    return Step(0, step, step, steps, 0.01)


def test_the_target_falls_geometrically_and_stays_at_the_budget():
    followed = dual(0.25, reach=0.5)
    assert followed.target(24, 100) == pytest.approx(0.5)
    assert followed.target(49, 100) == pytest.approx(0.25)
    assert followed.target(99, 100) == followed.target(49, 100)


@given(cost=st.floats(0.1, 1.0), step=st.integers(0, 60), ahead=st.sampled_from([0.0, 10.0, 25.0]))
def test_lambda_answers_to_where_the_cost_is_heading(cost, step, ahead):
    followed = dual(0.5, reach=0.8, dual_rate=50.0)
    followed.weight = 2.0
    followed.ascend(at(step), {"a": torch.full((4,), cost, dtype=torch.float64)}, ahead)
    # The target of the step that is looked at, not of this one.
    target = 0.5 ** min(1.0, (step + ahead + 1) / 80)
    assert followed.weight == pytest.approx(2.0 * math.exp(50.0 / 100 * math.log(cost / target)))


def test_lambda_stays_where_it_can_come_back_from():
    followed = dual(0.5, dual_rate=1e6)
    followed.ascend(at(99), {"a": torch.ones(4)}, 0.0)
    assert followed.weight == 1e4
    followed.ascend(at(99), {"a": torch.full((4,), 1e-3)}, 0.0)
    assert followed.weight == 1e-4


def test_stages_are_lambdas_and_no_target():
    followed = dual(stages=(0.25, 4.0))
    assert followed.target(50, 100) == 0.0
    followed.ascend(at(49), {"a": torch.ones(4)}, 10.0)
    assert followed.weight == 0.25
    followed.ascend(at(50), {"a": torch.ones(4)}, 10.0)
    assert followed.weight == 4.0
