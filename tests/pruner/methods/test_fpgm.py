import numpy as np
import pytest
import torch

from pruner.methods import open_method


def test_values_are_summed_distances(problem, producers):
    made = problem()
    values = open_method("fpgm").values(made).check(made.graph, method="fpgm")
    for name, channels in producers(made.model).items():
        sums = [
            sum(
                sum(((a - b) ** 2).sum().item() for a, b in zip(one, other, strict=True)) ** 0.5
                for other in channels
            )
            for one in channels
        ]
        mean = sum(sums) / len(sums)
        assert values.channels[name] == pytest.approx([total / mean for total in sums])


def test_it_gives_up_the_redundant_filter_and_not_the_small_one(problem):
    made = problem()
    with torch.no_grad():
        weight = made.model.inner.weight
        weight.zero_()
        for channel, (place, size) in enumerate([(0, 9.0), (0, 10.0), (0, 11.0), (1, -5.0), (2, 1.0)]):
            weight[channel, place] = size
    assert int(np.argmin(open_method("fpgm").values(made).channels["inner"])) in (0, 1, 2)
    assert int(np.argmin(open_method("l1").values(made).channels["inner"])) == 4
