import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latency_model.errors import ModelError
from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Geometry
from latency_model.regression.growing import Settings
from latency_model.regression.parts import Tiling
from latency_model.regression.regressor import RowRegressor
from latency_model.rows import RowSet
from latency_model.transfer import restored, state, transfer, transfer_table

SMALL = Settings(classifying=10, boosted=20, averaged=10, rate=0.2)


def expert(tiling, work, waves, moved, weights, constant):
    parts = np.zeros(35)
    parts[[1, 2, 9, 10, 11, 14]] = work, waves, moved, moved, weights, constant
    return Expert(tiling, 80, tuple(parts), 0.0)


SLOW = expert(Tiling(span=128, channels=128), 80, 20, 1, 20, 2)
FAST = expert(Tiling(16, 4, 4, 36, 64, 64, 8), 70, 20, 9, 40, 3)


def off(predicted, measured):
    return np.abs(predicted / measured - 1.0).mean()


def known_device(columns):
    """Latencies and kernels where the faster of two algorithms runs, with an error of 2 %."""
    sizes = Geometry.of(columns)
    both = np.column_stack([SLOW.predict(sizes), FAST.predict(sizes)])
    noise = np.exp(np.random.default_rng(5).normal(0, 0.02, len(columns)))
    return both.min(axis=1) * noise, [
        "slow_128x128" if choice == 0 else "fast" for choice in both.argmin(axis=1)
    ]


def new_device(columns):
    """The same algorithms: half the processors, smaller tiles for one, memory less slower than arithmetic."""
    sizes = Geometry.of(columns)
    slow = replace(SLOW, units=40, tiling=Tiling(span=64, channels=64))
    times = np.ones(35)
    times[[1, 9, 10, 11, 14]] = 2.0, 1.4, 1.4, 1.4, 1.2
    both = np.column_stack(
        [
            replace(each, units=40, weights=tuple(np.array(each.weights) * times)).predict(sizes)
            for each in (slow, FAST)
        ]
    )
    noise = np.exp(np.random.default_rng(6).normal(0, 0.02, len(columns)))
    return both.min(axis=1) * noise, [
        "slow_64x64" if choice == 0 else "fast" for choice in both.argmin(axis=1)
    ]


def row_set(columns, latency_us, kernels, **more):
    return RowSet(
        origin=Path("rows.csv"),
        columns=columns,
        place=np.arange(len(columns)),
        unit="us",
        latency_us=latency_us,
        kernel_names=np.array(kernels, dtype=object),
        **more,
    )


@pytest.fixture(scope="module")
def world(columns):
    everything = columns(800)
    latency, kernels = known_device(everything)
    source = RowRegressor.fit(
        everything, latency, kernels=kernels, settings=SMALL, place=np.full(len(everything), 0.5)
    )
    return everything, latency, kernels, source


@pytest.fixture(scope="module")
def made(world, columns):
    few = columns(60, seed=1)
    latency, kernels = new_device(few)
    return transfer(world[3], few, latency, kernels=kernels, units=40), few, latency, kernels


def test_a_new_device_is_predicted_from_sixty_rows(world, made, columns):
    other = columns(500, seed=2)
    truth, _ = new_device(other)
    device, few, latency, _ = made
    there = world[3].predict(few)
    factor = np.median(latency / there) * world[3].predict(other)
    assert off(device.predict(other), truth) < 0.05
    assert off(device.predict(other), truth) < 0.5 * off(factor, truth)
    middle, low, high = device.interval(other)
    assert ((low <= truth) & (truth <= high)).mean() > 0.8
    assert device.expected(other).sum() == pytest.approx(truth.sum(), rel=0.05)
    assert (low <= middle).all() and (middle <= high).all()
    assert ((high - low) / middle).mean() < 0.4
    assert device.spread(other).shape == (500,) and (device.spread(other) > 0).all()


@pytest.mark.parametrize("count", [8, 10, 30])
def test_few_rows_are_no_worse_than_one_factor(world, columns, count):
    other = columns(300, seed=2)
    truth, _ = new_device(other)
    ours, factors = [], []
    for seed in range(4):
        few = columns(count, seed=10 + seed)
        latency, kernels = new_device(few)
        ours.append(off(transfer(world[3], few, latency, kernels=kernels).predict(other), truth))
        factors.append(off(np.median(latency / world[3].predict(few)) * world[3].predict(other), truth))
    assert np.mean(ours) < np.mean(factors)


def test_without_names_of_kernels(world, columns):
    few, other = columns(60, seed=1), columns(300, seed=2)
    device = transfer(world[3], few, new_device(few)[0])
    assert device.router is None and device.named == ()
    assert off(device.predict(other), new_device(other)[0]) < 0.08
    empty = transfer(world[3], few, new_device(few)[0], kernels=[""] * 60, units=40)
    assert empty.router is None


def test_the_same_device_stays_itself(world, columns):
    few, other = columns(60, seed=1), columns(300, seed=2)
    latency, kernels = known_device(few)
    device = transfer(world[3], few, latency, kernels=kernels, units=80)
    assert off(device.predict(other), known_device(other)[0]) < 0.04


def test_a_drift_of_the_samples_is_taken_out(world, columns):
    few, other = columns(100, seed=1), columns(300, seed=2)
    latency, kernels = new_device(few)
    place = np.linspace(0, 1, 100)
    slower = latency + 200.0 * (place - 0.5)
    still, wrong = np.full(100, 0.5), np.random.default_rng(0).uniform(size=100)
    found = transfer(world[3], few, slower, kernels=kernels, units=40, settings=SMALL, place=[wrong, place])
    assert found.drift_us == pytest.approx(200.0, rel=0.15)
    assert (
        transfer(world[3], few, latency, kernels=kernels, units=40, settings=SMALL, place=place).drift_us
        == 0.0
    )
    truth = new_device(other)[0]
    without = transfer(world[3], few, slower, kernels=kernels, units=40, settings=SMALL, place=still)
    assert without.drift_us == 0.0
    assert off(found.predict(other, without_drift=True), truth) < off(without.predict(other), truth)
    somewhere = truth + 200.0 * (np.random.default_rng(1).uniform(size=300) - 0.5)
    assert off(found.predict(other), somewhere) < off(found.predict(other, without_drift=True), somewhere)
    _, low, high = found.interval(other)
    assert ((low <= somewhere) & (somewhere <= high)).mean() > 0.8


def test_many_samples_have_a_regression_of_their_own(world, columns):
    few, other = columns(220, seed=1), columns(300, seed=2)
    latency, kernels = new_device(few)
    device = transfer(world[3], few, latency, kernels=kernels, units=40, settings=SMALL)
    assert device.own is not None and device.own_weight == pytest.approx(220 / 620)
    assert off(device.predict(other), new_device(other)[0]) < 0.05
    same_again(device, other)


def same_again(device, other):
    data, arrays = state(device)
    again = restored(json.loads(json.dumps(data)), arrays)
    assert all(array.dtype != object for array in arrays.values())
    for one, two in zip(device.interval(other), again.interval(other), strict=True):
        np.testing.assert_array_equal(one, two)
    assert (again.units, again.samples, again.drift_us) == (device.units, device.samples, device.drift_us)


def test_restored_from_json_and_arrays(world, made, columns):
    other = columns(50, seed=3)
    same_again(made[0], other)
    few = columns(30, seed=1)
    same_again(transfer(world[3], few, new_device(few)[0], units=40), other)


def test_the_same_samples_make_the_same_device(world, made, columns):
    _, few, latency, kernels = made
    again = transfer(world[3], few, latency, kernels=kernels, units=40)
    other = columns(50, seed=3)
    np.testing.assert_array_equal(made[0].predict(other), again.predict(other))
    assert len(made[0].predict(other.take(slice(0)))) == 0


@pytest.mark.parametrize("bad", ["few", "nan", "zero", "kernels"])
def test_bad_samples_are_refused(world, columns, bad):
    few = columns(7 if bad == "few" else 20, seed=1)
    latency, kernels = new_device(few)
    latency[0] = {"nan": np.nan, "zero": 0.0}.get(bad, latency[0])
    with pytest.raises(ModelError):
        transfer(world[3], few, latency, kernels=kernels[:-1] if bad == "kernels" else kernels)


def test_a_table_of_the_new_device(world, columns):
    everything, latency, kernels, _ = world
    chosen = np.sort(np.random.default_rng(0).choice(len(everything), 60, replace=False))
    few = everything.take(chosen)
    truth, names = new_device(everything)
    measured, mine = truth[chosen], [names[row] for row in chosen]
    low = measured * 0.9
    low[3] = np.nan
    samples = row_set(few, measured, mine, device="Tesla T4", low_us=low, high_us=measured * 1.1)
    table = transfer_table(row_set(everything, latency, kernels), samples, settings=SMALL)
    assert table.model.units == 40
    assert [table.source[row] for row in chosen] == ["measured"] * 60
    assert set(table.source) == {"measured", "transferred"}
    np.testing.assert_array_equal(table.predicted_us[chosen], measured)
    assert table.low_us[chosen[3]] == measured[3] and table.low_us[chosen[4]] == pytest.approx(low[4])
    assert off(table.predicted_us, truth) < 0.06
    beyond = columns(3)
    beyond = replace(beyond, batch=beyond.batch * 1000)
    far = transfer_table(row_set(everything, latency, kernels), samples, wanted=beyond, settings=SMALL)
    assert far.source == ("extrapolated",) * 3


def test_another_precision_and_missing_latencies_are_refused(world, columns):
    everything, latency, kernels, _ = world
    few = everything.take(slice(0, 20))
    half = replace(few, kinds=(replace(few.kinds[0], precision="fp16"),))
    with pytest.raises(ModelError, match="fp16"):
        transfer_table(row_set(everything, latency, kernels), row_set(half, latency[:20], kernels[:20]))
    with pytest.raises(ModelError, match="latencies"):
        transfer_table(
            row_set(everything, latency, kernels),
            replace(row_set(few, latency[:20], kernels[:20]), latency_us=None),
        )
