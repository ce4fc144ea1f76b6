import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.errors import InputError
from latency_model.grid import ChannelGrid
from latency_model.measurement import Measurement
from latency_model.reconstruct import axis_counts, reconstruct, reconstruct_many
from latency_model.shapes import ConvShape

FULL = ConvShape(8, 128, 14, 14, 256, precision="fp16", layout="nhwc")
INPUTS, OUTPUTS = list(range(8, 129, 8)), list(range(8, 257, 8))


def row(us, part=0.005):
    low, high = us * (1 - part), us * (1 + part)
    return Measurement(us, low, high, low, us, us, high, low, 25, "fake")


def stairs(a, b):
    """Steps at 64 and 128 channels, the same in every row and column."""
    return 4.0 * (1 + (a > 64)) * np.array([1.0, 1.5, 1.5, 3.0])[(b - 1) // 64]


def smooth(a, b):
    return 3.0 + 0.002 * a * b + 0.6 * np.ceil(b / 64) * np.ceil(a / 32)


def some(function, count, seed=0, site=FULL):
    chosen = np.random.default_rng(seed).permutation(len(INPUTS) * len(OUTPUTS))[:count]
    pairs = [(INPUTS[int(i) // len(OUTPUTS)], OUTPUTS[int(i) % len(OUTPUTS)]) for i in chosen]
    return {site.with_channels(a, b): row(float(function(a, b))) for a, b in pairs}


def truth(function):
    return np.array([[float(function(a, b)) for b in OUTPUTS] for a in INPUTS])


@given(st.integers(4, 60), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_measured_points_come_back_as_they_are(count, seed):
    rows = some(smooth, count, seed)
    found = reconstruct(rows, INPUTS, OUTPUTS)
    assert found.measured.sum() == count
    for shape, known in rows.items():
        at = INPUTS.index(shape.in_channels), OUTPUTS.index(shape.out_channels)
        assert found.measured[at]
        assert (found.latency_us[at], found.low_us[at], found.high_us[at]) == (
            known.latency_us,
            known.low_us,
            known.high_us,
        )
    assert np.all((found.low_us <= found.latency_us) & (found.latency_us <= found.high_us))
    assert np.all(found.low_us > 0) and np.all(np.isfinite(found.high_us))


def test_the_same_rows_give_the_same_grid_in_any_order():
    rows = some(smooth, 40)
    first = reconstruct(rows, INPUTS, OUTPUTS)
    second = reconstruct(dict(reversed(list(rows.items()))), INPUTS, OUTPUTS)
    assert np.array_equal(first.latency_us, second.latency_us)
    assert np.array_equal(first.high_us, second.high_us)


def test_steps_that_every_row_shares_are_found():
    # Two whole rows and two whole columns show every boundary; the rest follows from them.
    pairs = {(a, b) for a in INPUTS for b in OUTPUTS if a in (32, 96) or b in (96, 224)}
    rows = {FULL.with_channels(a, b): row(float(stairs(a, b)), 1e-4) for a, b in pairs}
    found = reconstruct(rows, INPUTS, OUTPUTS)
    np.testing.assert_allclose(found.latency_us, truth(stairs), rtol=5e-3)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = []
    for seed in range(4):
        found = reconstruct(some(smooth, 60, seed), INPUTS, OUTPUTS)
        inside = (found.low_us <= truth(smooth)) & (truth(smooth) <= found.high_us)
        held.append(inside[~found.measured].mean())
    assert np.mean(held) > 0.88


def test_sites_fitted_together_are_not_mixed_up():
    other = ConvShape(8, 128, 28, 28, 256, precision="fp16", layout="nhwc")
    one, two = reconstruct_many(
        [
            (some(smooth, 50), INPUTS, OUTPUTS),
            (some(lambda a, b: 10 * smooth(a, b), 50, 1, other), INPUTS, OUTPUTS),
        ]
    )
    assert (one.site, two.site) == (FULL.site, other.site)
    assert np.median(two.latency_us / one.latency_us) == pytest.approx(10, rel=0.03)


def test_a_depthwise_site_is_a_line():
    full = ConvShape(1, 64, 14, 14, 64, groups=64)
    rows = {full.with_channels(c, c): row(1.0 + 0.1 * c) for c in (8, 24, 40, 64)}
    found = reconstruct(rows, range(8, 65, 8), [1])
    assert found.latency_us.shape == (8, 1)
    assert found.latency_us[1, 0] == pytest.approx(2.6, rel=0.02)
    grid = ChannelGrid.from_reconstruction(found)
    assert grid.at(16, 16).source == "reconstructed" and grid.at(24, 24).source == "measured"
    assert grid.dense().shape == (65,)


def test_a_grid_says_what_was_not_measured():
    rows = some(smooth, 60)
    found = reconstruct(rows, INPUTS, OUTPUTS)
    grid = ChannelGrid.from_reconstruction(found)
    known = next(iter(rows))
    assert grid.at(known.in_channels, known.out_channels).source == "measured"
    free = np.argwhere(~found.measured)[0]
    point = grid.at(INPUTS[free[0]], OUTPUTS[free[1]])
    assert point.source == "reconstructed" and point.high_us > point.latency_us > point.low_us
    assert grid.at(INPUTS[free[0]] - 1, OUTPUTS[free[1]] - 1).source.startswith("padded")
    assert len(grid.inputs) == len(INPUTS) * len(OUTPUTS)
    kept = grid.measured_only()
    assert len(kept.inputs) == 60 and kept.measured is None
    assert kept.at(known.in_channels, known.out_channels).latency_us == rows[known].latency_us


def test_the_axis_of_a_part():
    assert list(axis_counts([64, 8, 24, 32])) == list(range(8, 65, 8))
    assert list(axis_counts([3])) == [3]


def test_what_cannot_be_reconstructed():
    with pytest.raises(InputError, match="at least 4"):
        reconstruct(some(smooth, 3), INPUTS, OUTPUTS)
    with pytest.raises(InputError, match="there are none"):
        reconstruct({}, INPUTS, OUTPUTS)
    other = ConvShape(1, 128, 14, 14, 256)
    with pytest.raises(InputError, match="one convolution site"):
        reconstruct(some(smooth, 5) | some(smooth, 5, 0, other), INPUTS, OUTPUTS)
