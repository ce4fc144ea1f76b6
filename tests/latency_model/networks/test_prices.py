"""Prices of a runtime's networks: what of a network's own family is kept from its prediction."""

import dataclasses
import math

import numpy as np
import pytest

from latency_model.conformal import FamilyConformal
from latency_model.networks import kernels_of, network_of_spec
from latency_model.networks.correction import fit_network_correction
from latency_model.networks.prices import NetworkPrices
from latency_model.networks.read import MeasuredNetwork

from .conftest import NAMES

FAMILIES = ("a", "a", "b", "b", "c", "c", "d", "d")


def conv_us(shapes):
    return np.array([5.0 + shape.macs / 1e6 for shape in shapes])


def network(place, *, glue_us=1.0, factor=1.0):
    """A small residual network of width ``place``, traced, at twice the sum of its convolutions."""
    spec = {
        "family": "resnet", "block": "basic", "stem": 8 + 2 * place, "stream": [12 + 4 * place],
        "inner": [[[6 + place], [10]]], "input": 32, "batch": 1, "precision": "fp16", "classes": 10,
    }  # fmt: skip
    cost = network_of_spec(spec)
    kernels = kernels_of(cost)
    trace = tuple((NAMES[kernel.kind], 7.0 if kernel.kind == "conv" else glue_us) for kernel in kernels)
    whole = factor * 2 * float(conv_us([k.shape for k in kernels if k.shape is not None]).sum())
    return MeasuredNetwork(f"net{place}", FAMILIES[place], cost, 1, whole, whole, whole, trace)


def fit(networks):
    return NetworkPrices.fit(networks, conv_us)


@pytest.fixture(scope="module")
def networks():
    rng = np.random.default_rng(0)
    return [network(place, factor=math.exp(rng.normal(0, 0.05))) for place in range(len(FAMILIES))]


def test_the_traces_of_a_family_do_not_price_its_own_networks(networks):
    _, before = fit(networks)
    slow = [network(place, glue_us=50.0) if net.family == "c" else net for place, net in enumerate(networks)]
    _, after = fit(slow)
    for old, new in zip(before, after, strict=True):
        assert new.name == old.name
        if old.family == "c":
            assert new.raw_sum_us == pytest.approx(old.raw_sum_us)
        else:
            assert new.raw_sum_us > old.raw_sum_us * 1.0001


def test_what_a_family_took_does_not_correct_its_own_networks(networks):
    _, before = fit(networks)
    dear = [
        dataclasses.replace(net, measured_us=1.5 * net.measured_us) if net.family == "b" else net
        for net in networks
    ]
    _, after = fit(dear)
    for old, new in zip(before, after, strict=True):
        if old.family == "b":
            assert new.predicted_us == pytest.approx(old.predicted_us)
            assert new.measured_us == pytest.approx(1.5 * old.measured_us)
        else:
            assert new.predicted_us > 1.02 * old.predicted_us


def test_intervals_rest_on_families_left_out_and_on_networks_left_out(networks):
    prices, left_out = fit(networks)
    sums, counts, measured = (
        [getattr(net, name) for net in left_out] for name in ("raw_sum_us", "kernels", "measured_us")
    )
    unseen, known = [], []
    for place, net in enumerate(left_out):
        for found, seen in (
            (unseen, [i for i, other in enumerate(left_out) if other.family != net.family]),
            (known, [i for i in range(len(left_out)) if i != place]),
        ):
            correction = fit_network_correction(
                *([values[i] for i in seen] for values in (sums, counts, measured)),
                [left_out[i].family for i in seen],
            )
            found.append(math.log(net.measured_us / correction.apply(net.raw_sum_us, net.kernels)))
        assert net.predicted_us == pytest.approx(net.measured_us / math.exp(unseen[-1]))
    families = [net.family for net in left_out]
    assert prices.families.unseen.means == pytest.approx(FamilyConformal.fit(families, unseen).means)
    assert prices.families.known.means == pytest.approx(FamilyConformal.fit(families, known).means)
    assert prices.correction == fit_network_correction(sums, counts, measured, families)
    assert NetworkPrices.from_json(prices.to_json()) == prices


def test_one_family_alone_has_no_intervals(networks):
    prices, left_out = fit(networks[:2])
    assert prices.families is None
    assert len(left_out) == 2
