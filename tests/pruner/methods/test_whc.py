"""The weighted hybrid criterion: the numbers of its paper, filters of zeros, twins, and a whole order by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latency_model.errors import InputError
from pruner.budget import Budget
from pruner.graph import trace
from pruner.methods import Problem, open_method
from pruner.testing import MethodSuite

# The filters of the paper's argument, and what each criterion says of them.
FOUR = [[3.0, 0.0], [0.0, 2.0], [-1.0, -1.0], [2.0, 2.0]]
SCORES = {
    "": [9.7279, 8.4853, 2.0711, 4.1421],
    "criterion=hc": [4.7574, 3.1716, 0.8284, 1.6569],
    "norm=l1": [11.2721, 9.5147, 2.9289, 5.8579],
}


def ranked(filters, tmp_path, *options):
    """What whc says of one layer with these filters, of two weights each."""
    model = nn.Sequential(nn.Conv2d(2, len(filters), 1, bias=False), nn.ReLU(), nn.Conv2d(len(filters), 2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(filters).view(len(filters), 2, 1, 1))
    problem = Problem(
        model=model,
        graph=trace(model.eval(), torch.zeros(2, 2, 4, 4)),
        cost=None,
        budget=Budget.parse("macs=0.5x"),
        ratio=0.5,
        splits=None,
        epochs=0,
        seed=0,
        state_dir=tmp_path,
    )
    settings = dict(option.split("=") for option in options if option)
    values = open_method("whc", settings).values(problem).check(problem.graph, method="whc")
    return values.channels["0"]


@pytest.mark.parametrize("option", list(SCORES))
def test_scores_of_the_paper(option, tmp_path):
    expected = np.array(SCORES[option])
    assert ranked(FOUR, tmp_path, option) == pytest.approx(expected / expected.mean(), rel=1e-4)


def by_hand(filters, similarity="cosine", criterion="whc"):
    rows = [np.array(one) for one in filters]
    sides = [row - row.mean() for row in rows] if similarity == "correlation" else rows
    found = []
    for i, row in enumerate(rows):
        total = 0.0
        for j, other in enumerate(rows):
            lengths = np.linalg.norm(sides[i]) * np.linalg.norm(sides[j])
            if i != j and np.linalg.norm(other) > 0:
                cosine = sides[i] @ sides[j] / lengths if lengths > 0 else 0.0
                total += (np.linalg.norm(other) if criterion == "whc" else 1.0) * (1 - abs(cosine))
        found.append(total if criterion == "dm" and row.any() else np.linalg.norm(row) * total)
    return np.array(found)


weights = st.integers(-4, 4).map(float)


@given(
    filters=st.lists(st.lists(weights, min_size=2, max_size=2), min_size=2, max_size=6),
    similarity=st.sampled_from(["cosine", "correlation"]),
    criterion=st.sampled_from(["whc", "hc", "dm"]),
)
def test_scores_are_the_sums_of_the_formula(tmp_path_factory, filters, similarity, criterion):
    expected = by_hand(filters, similarity, criterion)
    # One part in ten million: the weights of the network have 24 bits.
    folder = tmp_path_factory.getbasetemp()
    found = ranked(filters, folder, f"similarity={similarity}", f"criterion={criterion}")
    if expected.mean() < 1e-6:
        return
    assert found == pytest.approx(expected / expected.mean(), abs=1e-6)


def test_a_filter_of_zeros_goes_first(tmp_path):
    for option in ("", "criterion=dm", "criterion=hc", "similarity=correlation", "iterative=yes"):
        worth = ranked([[3.0, 1.0], [0.0, 0.0], [1.0, 2.0], [-1.0, 2.0]], tmp_path, option)
        assert np.isfinite(worth).all()
        assert worth.argmin() == 1


def test_of_twins_only_one_goes_where_filters_are_judged_anew(tmp_path):
    twins = [[3.0, 0.0], [3.0, 0.0], [0.0, 3.5], [1.2, 2.9]]
    once, anew = ranked(twins, tmp_path), ranked(twins, tmp_path, "iterative=yes")
    assert once[0] == once[1]
    assert sorted(np.argsort(anew)[:2]) != [0, 1]
    assert sorted(anew) == pytest.approx(sorted(once), rel=1e-6)


@given(filters=st.lists(st.lists(weights, min_size=2, max_size=2), min_size=2, max_size=6))
def test_the_order_of_going_is_that_of_judging_again_and_again(tmp_path_factory, filters):
    folder = tmp_path_factory.getbasetemp()
    worth = ranked(filters, folder, "iterative=yes")
    if by_hand(filters).mean() < 1e-6:
        return
    left = list(range(len(filters)))
    for gone in np.argsort(worth):
        scores = by_hand([filters[i] for i in left])
        assert scores[left.index(gone)] == pytest.approx(scores.min(), abs=1e-6)
        left.remove(gone)


def test_every_layer_of_a_group_has_an_equal_say(problem):
    made = problem()
    expected = open_method("whc").values(made).channels["stem"]
    with torch.no_grad():
        made.model.back.weight.mul_(100)
    assert open_method("whc").values(made).channels["stem"] == pytest.approx(expected, rel=1e-5)


def test_a_setting_that_is_none(tmp_path):
    with pytest.raises(InputError, match=r"criterion of whc must be one of whc, hc, dm, not 'cosine'"):
        ranked(FOUR, tmp_path, "criterion=cosine")


class TestConformance(MethodSuite):
    def open(self):
        return open_method("whc")
