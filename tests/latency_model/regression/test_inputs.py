"""What the trees see, against loops by hand."""

import numpy as np

from latency_model.regression.geometry import Geometry
from latency_model.regression.inputs import likely, mean_inputs, own_inputs, router_inputs

from .conftest import columns_of

CHANCE = np.array([[0.7, 0.27, 0.03], [0.01, 0.01, 0.98], [0.5, 0.5, 0.0]])
COSTS = np.log(np.array([[10.0, 12.0, 3.0], [5.0, 6.0, 7.0], [8.0, 4.0, 1.0]]))
PLAIN, BASE = np.arange(6.0).reshape(3, 2), np.array([0.1, 0.2, 0.3])


def test_families_that_are_looked_at() -> None:
    np.testing.assert_array_equal(likely(CHANCE), [[1, 1, 0], [0, 0, 1], [1, 1, 0]])
    # Of many that are all unlikely, the likeliest.
    assert likely(np.full((1, 50), 0.02)).any()


def test_a_formula_beside_those_of_the_likely_others() -> None:
    row, family = np.nonzero(likely(CHANCE))
    found = own_inputs(PLAIN, BASE, COSTS, CHANCE, row, family)
    assert len(found) == 5
    for line, r, f in zip(found, row, family, strict=True):
        others = [COSTS[r, o] - COSTS[r, f] for o in range(3) if o != f and CHANCE[r, o] >= 0.04]
        mixed = sum(CHANCE[r, o] * COSTS[r, o] for o in range(3))
        wanted = [
            *PLAIN[r],
            *(float(o == f) for o in range(3)),
            COSTS[r, f] - BASE[r],
            COSTS[r, f],
            CHANCE[r, f],
            mixed - COSTS[r, f],
            min(others, default=3.0),
            *(COSTS[r] - COSTS[r, f]),
        ]
        np.testing.assert_allclose(line, wanted, atol=1e-12)


def test_one_family_has_no_others() -> None:
    found = own_inputs(PLAIN, BASE, COSTS[:, :1], np.ones((3, 1)), np.arange(3), np.zeros(3, dtype=np.int64))
    np.testing.assert_allclose(found[:, -2], 3.0)
    np.testing.assert_allclose(found[:, -3], 0.0, atol=1e-12)


def test_waves_are_counted_in_whole_processors() -> None:
    sizes = Geometry.of(columns_of(40, 3))
    costs, chance = np.zeros((40, 2)), np.full((40, 2), 0.5)
    seen = router_inputs(np.zeros((40, 1)), np.zeros(40), costs)
    found = mean_inputs(seen, costs, chance, sizes, 7)
    over, count = found[:, -18], found[:, -17]  # of tiles of 64 by 32
    for i in range(40):
        wide = -(-sizes.outputs[i] // sizes.vector[i]) * sizes.vector[i]
        tiles = -(-sizes.pixels[i] // 64) * -(-wide // 32)
        whole = -(-tiles // 7) * 7
        np.testing.assert_allclose(np.exp(over[i]), whole * 64 * 32 / (sizes.pixels[i] * wide))
        np.testing.assert_allclose(np.exp(count[i]), min(tiles, 56))
