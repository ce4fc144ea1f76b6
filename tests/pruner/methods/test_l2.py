import pytest

from pruner.methods import open_method


def test_values_are_the_root_mean_squares_of_all_slices(problem, producers):
    made = problem()
    values = open_method("l2").values(made).check(made.graph, method="l2")
    for name, channels in producers(made.model).items():
        norms = [sum((w**2).sum().item() / len(w) for w in slices) ** 0.5 for slices in channels]
        mean = sum(norms) / len(norms)
        assert values.channels[name] == pytest.approx([norm / mean for norm in norms])
