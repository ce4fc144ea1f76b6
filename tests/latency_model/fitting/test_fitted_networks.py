"""Networks by a model of plain rows: kernels, correction, intervals, and what explains them."""

import math

import pytest

from latency_model.errors import InputError
from latency_model.harvest import harvest
from latency_model.model import LatencyModel
from latency_model.zoo import load_model

from .conftest import call, data


@pytest.fixture(scope="module")
def estimate(fitted):
    return data("estimate", "digits_resnet", "--model", fitted[0], "--batch", 2)


def test_an_estimate_has_its_interval_and_the_raw_sum(estimate):
    assert 0 < estimate["low_us"] <= estimate["latency_us"] <= estimate["high_us"]
    parts = [part["latency_us"] for part in (*estimate["sites"], *estimate["ops"])]
    assert all(part > 0 for part in parts)
    assert estimate["raw_sum_us"] == pytest.approx(math.fsum(parts))
    assert estimate["correction"]["networks"] == 4


def test_launches_and_the_call_are_added_to_the_sum(estimate):
    correction, kernels = estimate["correction"], len(estimate["sites"]) + len(estimate["ops"])
    whole = correction["slope"] * estimate["raw_sum_us"] + correction["per_kernel_us"] * kernels
    assert estimate["latency_us"] == pytest.approx(whole + correction["offset_us"])
    shares = [part["corrected_us"] for part in (*estimate["sites"], *estimate["ops"])]
    assert math.fsum(shares) == pytest.approx(whole)
    assert correction["per_kernel_us"] > 0


def test_kernels_between_convolutions_are_priced_and_flagged(estimate):
    assert any(part["shape"].startswith("bias of") for part in estimate["ops"])
    assert {part["source"] for part in estimate["sites"]} <= {"measured", "regressed", "extrapolated"}
    assert any("not measured" in flag for flag in estimate["flags"])


def test_the_same_estimate_through_python(fitted, estimate):
    model = LatencyModel.load(fitted[0])
    network = harvest(load_model("digits_resnet", seed=0), batch=2)
    found = model.estimate(network)
    assert found.latency_us == pytest.approx(estimate["latency_us"])
    assert found.kernels == len(found.sites) + len(found.ops)
    surer = model.estimate(network, confidence=0.99)
    assert surer.high_us - surer.low_us > found.high_us - found.low_us


def test_explain_says_where_the_number_is_from(fitted, estimate):
    text = call("explain", "digits_resnet", "--model", fitted[0], "--batch", 2)
    assert "this very shape was not measured" in text
    assert "priced by the bytes" in text or "kernels" in text
    name = estimate["sites"][0]["name"]
    found = data("explain", "digits_resnet", "--model", fitted[0], "--batch", 2, "--site", name)
    (part,) = found["parts"]
    assert part["name"] == name
    assert part["row"] is None
    with pytest.raises(InputError, match="no part 'nothing'"):
        call("explain", "digits_resnet", "--model", fitted[0], "--site", "nothing")


def test_the_interval_of_a_measured_family_is_asked_for_by_its_name(fitted, estimate):
    words = ("estimate", "digits_resnet", "--model", fitted[0], "--batch", 2)
    found = data(*words, "--family", "vgg")
    assert (estimate["family"], found["family"]) == (None, "vgg")
    assert found["latency_us"] == estimate["latency_us"]
    known = LatencyModel.load(fitted[0]).prices.families.known
    low, high = known.interval(found["latency_us"], "vgg", 0.9)
    assert found["low_us"] == pytest.approx(min(low, found["latency_us"]))
    assert found["high_us"] == pytest.approx(max(high, found["latency_us"]))
    assert found["high_us"] - found["low_us"] != pytest.approx(estimate["high_us"] - estimate["low_us"])
    with pytest.raises(InputError, match="only of resnet-basic, vgg"):
        call(*words, "--family", "alexnet")
