import pytest

from pruner.methods import open_method


def test_values_are_the_mean_magnitudes_of_all_slices(problem, producers):
    made = problem()
    values = open_method("l1").values(made).check(made.graph, method="l1")
    by_hand = producers(made.model)
    assert values.channels.keys() == by_hand.keys()
    for name, channels in by_hand.items():
        norms = [sum(w.abs().sum().item() / len(w) for w in slices) for slices in channels]
        mean = sum(norms) / len(norms)
        assert values.channels[name] == pytest.approx([norm / mean for norm in norms])


def test_a_group_of_zeros_has_equal_values(problem):
    made = problem()
    made.model.up.weight.data.zero_()
    assert (open_method("l1").values(made).channels["up"] == 1).all()
