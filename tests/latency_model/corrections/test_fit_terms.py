import dataclasses
import math

import numpy as np
import pytest

from latency_model.conformal import FamilyConformal
from latency_model.correction import fit_correction
from latency_model.corrections import (
    PARTS,
    Caches,
    TermsCorrection,
    TimedNetwork,
    fit_terms,
    leave_families_out,
    predicted_us,
)
from latency_model.corrections.fit import _ABSOLUTE_US, _LOWEST, _RELATIVE, _TYPICAL, _row, _solve
from latency_model.errors import InputError
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

COLD = TermsCorrection(cold_l2_us_per_mb=15.0, cold_l3_us_per_mb=30.0, depthwise_us_per_mb=12.0)


def zoo(truth=None, *, count=24, noise=0.0, seed=0, families=6):
    """Return networks of random widths whose measurements are what ``truth`` makes of their rows."""
    rng, found = np.random.default_rng(seed), []
    for place in range(count):
        family = place % families
        shapes = []
        for _ in range(int(rng.integers(6, 30))):
            into, out, size = (int(rng.integers(4, 400)), int(rng.integers(4, 400)), int(rng.integers(1, 12)))
            shapes += [
                ConvShape(1, into, size, size, out, (1, 1), padding=(0, 0, 0, 0)),
                ConvShape(1, out, size, size, out, groups=out),
                OpShape("Relu", ((1, out, size, size),)),
            ]
            if family % 2:
                shapes.append(ConvShape(1, into, size, size, out))
        macs = [shape.macs if isinstance(shape, ConvShape) else 1e5 for shape in shapes]
        rows = tuple(float(m / 6e4 + rng.uniform(0.5, 3)) for m in macs)
        whole = TimedNetwork(f"n{place}", f"f{family}", 1.0, tuple(shapes), rows)
        exact = whole.sum_us if truth is None else predicted_us(truth, whole)
        factor = math.exp(noise * rng.standard_normal())
        found.append(dataclasses.replace(whole, measured_us=exact * factor))
    return found


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_sums_that_are_right_are_not_corrected(count):
    fitted = fit_terms(zoo(count=count))
    assert dict(fitted.slopes) == pytest.approx(dict.fromkeys(PARTS, 1.0), abs=1e-6)
    assert max(fitted.coefficients) == fitted.call_us == 0
    for network in zoo(seed=7, count=8):
        assert predicted_us(fitted, network) == pytest.approx(network.sum_us, rel=1e-5)


def test_sums_that_are_right_but_for_noise_are_hardly_corrected():
    fitted = fit_terms(zoo(noise=0.02))
    for network in zoo(seed=7, count=8):
        assert predicted_us(fitted, network) == pytest.approx(network.sum_us, rel=0.02)


def test_a_known_law_is_found():
    train, test = zoo(COLD), zoo(COLD, seed=9, count=12)
    fitted = fit_terms(train)
    raw = [n.sum_us / n.measured_us - 1 for n in test]
    now = [predicted_us(fitted, n) / n.measured_us - 1 for n in test]
    assert np.abs(raw).mean() > 0.05
    assert np.abs(now).mean() < 0.01
    assert np.abs(now).max() < 0.03
    # Cold weights explain what the pull lets them; slopes and activations have hardly any of it.
    assert fitted.cold_l2_us_per_mb > 7
    assert fitted.cold_l3_us_per_mb > 9
    assert max(fitted.per_operator_us, fitted.activations_us_per_mb, fitted.call_us) < 0.5
    assert fitted.networks == 24
    assert fitted.spread == 0.02


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_few_networks_help_and_do_no_harm(count):
    test = zoo(COLD, seed=9)
    for seed in range(6):
        fitted = fit_terms(zoo(COLD, count=count, seed=seed, noise=0.02))
        assert 0.02 <= fitted.spread < 0.2
        raw, now = (
            np.array([value(n) / n.measured_us - 1 for n in test])
            for value in (lambda n: n.sum_us, lambda n, fitted=fitted: predicted_us(fitted, n))
        )
        assert np.abs(now).mean() < np.abs(raw).mean()
        assert np.abs(now).max() < np.abs(raw).max() + 0.05


def test_no_network_is_no_correction():
    fitted = fit_terms([])
    assert fitted == TermsCorrection()
    assert fitted.networks == 0


def test_networks_that_were_faster_than_their_rows_get_slopes_below_one():
    networks = [dataclasses.replace(n, measured_us=0.5 * n.sum_us) for n in zoo()]
    fitted = fit_terms(networks)
    assert all(0.1 <= slope < 1 for slope in fitted.slopes.values())
    for network in networks:
        assert predicted_us(fitted, network) == pytest.approx(network.measured_us, rel=0.1)


def test_the_fit_minimises_its_objective():
    networks = zoo(COLD, noise=0.05, count=10)
    design = np.array([_row(network, Caches()) for network in networks])
    measured = np.array([network.measured_us for network in networks])

    def objective(own):
        weights = np.concatenate([[1.0 + own[0]], own[1:]])
        noise = np.hypot(_RELATIVE, _ABSOLUTE_US / measured)
        left = (design @ weights / measured - 1) / noise
        return (left**2).sum() + ((own / _TYPICAL) ** 2).sum()

    found = _solve(design, measured)
    # The common slope is not told apart from the deviations in what is returned: it is what makes these smallest.
    slopes = found[: len(PARTS)] - 1
    common = slopes.sum() / _TYPICAL[1] ** 2 / (len(PARTS) / _TYPICAL[1] ** 2 + 1 / _TYPICAL[0] ** 2)
    own = np.concatenate([[common], slopes - common, found[len(PARTS) :]])
    best = objective(own)
    for place in range(len(own)):
        for step in (-0.02, 0.02):
            moved = own.copy()
            moved[place] += step * _TYPICAL[place]
            if moved[place] >= _LOWEST[place]:
                assert objective(moved) >= best - 1e-9


def test_left_out_families_are_not_known_to_the_fit():
    networks, seen = zoo(COLD, count=12, families=4), []

    def fit(rest):
        seen.append({network.family for network in rest})
        return fit_terms(rest)

    ratios = leave_families_out(networks, fit)
    assert seen == [{"f0", "f1", "f2", "f3"} - {f"f{place}"} for place in range(4)]
    for network, ratio in zip(networks, ratios, strict=True):
        known = fit_terms([n for n in networks if n.family != network.family])
        assert ratio == pytest.approx(math.log(network.measured_us / predicted_us(known, network)))
    low, high = FamilyConformal.fit([n.family for n in networks], ratios).interval(1000.0)
    assert 0 < low < 1000 < high
    with pytest.raises(InputError, match="two or more"):
        leave_families_out(zoo(families=1), fit_terms)


def test_any_correction_can_be_left_out():
    def fit(rest):
        return fit_correction([n.sum_us for n in rest], [n.measured_us for n in rest])

    assert np.abs(leave_families_out(zoo(), fit)).max() < 1e-3


def test_an_operator_without_a_row_counts_with_its_weights_only():
    network = zoo(count=1)[0]
    less = dataclasses.replace(network, rows_us=(None, *network.rows_us[1:]))
    assert less.total_weight_bytes == network.total_weight_bytes
    assert less.sum_us == pytest.approx(network.sum_us - network.rows_us[0])
    assert predicted_us(TermsCorrection(per_operator_us=1.0), less) == pytest.approx(
        less.sum_us + len(less.shapes) - 1
    )


def test_networks_that_are_none():
    network = zoo(count=1)[0]
    for wrong in ({"measured_us": 0.0}, {"measured_us": float("nan")}, {"rows_us": ()}):
        with pytest.raises(InputError):
            dataclasses.replace(network, **wrong)
    with pytest.raises(InputError):
        dataclasses.replace(network, rows_us=(None,) * len(network.shapes))
