"""Gator's published procedure on its published timings, and the same quantity from a table."""

from pathlib import Path

import numpy as np
import pytest

from latency_model import ConvShape, NetworkCost, Site
from latency_model.errors import InputError
from latency_model.network import Channels
from pruner.cost import Cost, macs_cost
from pruner.methods.half_width import HalfWidthTimings, read_timings
from pruner.methods.prices import half_width_multipliers

SHARED = Path(__file__).parents[3] / "shared" / "data" / "gator_timing"
# Of the table in the specification: edges 1, 8, 9, 17, 30, 37, reductions in per cent and multipliers.
PUBLISHED = {
    "resnet_50_edges_9_runs_batch_8.csv": (
        9, {1: (2.635, 1.115), 8: (9.351, 1.651), 9: (1.890, 1.032), 17: (8.485, 1.107), 30: (9.472, 0.917),
            37: (4.818, 1.033)},
    ),
    "resnet_50_edges_7_runs_batch_32.csv": (
        7, {1: (2.796, 1.183), 8: (10.232, 1.807), 9: (5.010, 2.734), 17: (8.924, 1.165), 30: (8.870, 0.859),
            37: (3.618, 0.776)},
    ),
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the published timings are not here")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_multipliers_come_out(name):
    sweeps, published = PUBLISHED[name]
    found = read_timings(SHARED / name)
    assert found.ms.shape == (sweeps, 38)
    for edge, (reduction, multiplier) in published.items():
        assert 100 * found.reductions[edge - 1] == pytest.approx(reduction, abs=6e-4)
        assert found.multipliers[edge - 1] == pytest.approx(multiplier, abs=6e-4)
    assert found.multipliers.mean() == pytest.approx({9: 0.541, 7: 0.686}[sweeps], abs=6e-4)


def test_a_sweep_that_is_far_off_is_left_out():
    ms = np.array([[10.0, 9.0], [10.0, 9.2], [10.0, 8.8], [16.0, 9.0]])
    found = HalfWidthTimings(ms, np.array([100.0, 80.0]))
    assert found.mean_ms.tolist() == pytest.approx([10.0, 9.0])
    assert found.reductions == pytest.approx([0.1])
    assert found.multipliers == pytest.approx([0.5])


@pytest.mark.parametrize(
    "text", ["", "0,100,1\n1,90,0.9\n0,100,1\n", "1,2\n", "a,b,c\n", "0,100,1\n2,90,1\n"]
)
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "x.csv").write_text(text)
    with pytest.warns(UserWarning) if not text else _nothing(), pytest.raises(InputError, match=r"x\.csv"):
        read_timings(tmp_path / "x.csv")


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_multipliers_of_a_table():
    """Two sites in a row: the first group halves all of the first and half of the second's work."""
    first = Site("a", ConvShape(1, 3, 8, 8, 8), Channels(3), Channels(0, (("a", 1),)))
    second = Site("b", ConvShape(1, 8, 8, 8, 16), Channels(0, (("a", 1),)), Channels(0, (("b", 1),)))
    network = NetworkCost("net", (first, second), {"a": 8, "b": 16})
    macs = macs_cost(network)
    same = half_width_multipliers(macs)
    assert same == pytest.approx({"a": 1.0, "b": 1.0})
    # Where half the work costs as much as all of it nothing is saved; where the time is all in one site, more.
    flat = {name: np.full_like(matrix, 5.0) for name, matrix in macs.matrices.items()}
    assert half_width_multipliers(Cost("latency", network, flat)) == {"a": 0.0, "b": 0.0}
    dear = {"a": macs.matrices["a"], "b": np.zeros_like(macs.matrices["b"])}
    found = half_width_multipliers(Cost("latency", network, dear))
    assert found["b"] == 0.0
    assert found["a"] == pytest.approx(0.5 / (1 - macs.value({"a": 4}) / macs.full))
