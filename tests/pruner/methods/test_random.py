import dataclasses

import numpy as np

from pruner.methods import open_method


def test_the_seed_decides_and_groups_are_independent(problem):
    first, again, other = (open_method("random").values(problem(seed=s)).channels for s in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)
    assert not np.array_equal(first["stem"][:5], first["inner"])


def test_every_channel_is_as_likely_the_best(problem):
    made = problem()
    drawn = [open_method("random").values(dataclasses.replace(made, seed=s)).channels for s in range(80)]
    best = [int(np.argmax(channels["up"])) for channels in drawn]
    counts = np.bincount(best, minlength=4)
    # 80 draws over 4 channels: 20 each, standard deviation 3.9.
    assert counts.min() > 20 - 4 * 3.9
    assert counts.max() < 20 + 4 * 3.9
