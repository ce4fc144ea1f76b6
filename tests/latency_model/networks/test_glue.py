import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latency_model.columns import ConvColumns
from latency_model.errors import InputError
from latency_model.networks import GluePrices, GlueSample, kernels_of, network_of_spec, samples_of_rows
from latency_model.networks.curve import KNOTS, Curve, fit_curve, fit_on
from latency_model.networks.kernels import Kernel
from latency_model.shapes import ConvShape

SPEC = {"family": "vgg", "widths": [[4, 6]], "input": 8, "batch": 2, "precision": "fp16"}


def truth(moved):
    """A launch, a cache and a memory."""
    return 1.5 + moved / 5e6 + np.maximum(moved - 32e6, 0) / 3e6


def samples(kind, count, scale=1.0, seed=0):
    moved = np.exp(np.random.default_rng(seed).uniform(np.log(1e3), np.log(3e8), count))
    return [GlueSample(kind, float(m), float(scale * truth(m))) for m in moved]


def price(prices, kind, moved, **rest):
    return prices.price(Kernel(kind, "k", moved // 2, moved - moved // 2, **rest))


@pytest.mark.parametrize("moved", [1_000, 100_000, 10_000_000, 60_000_000, 250_000_000, 2_000_000_000])
def test_a_curve_finds_floor_cache_and_memory(moved):
    prices = GluePrices.fit(samples("unary", 600))
    assert price(prices, "unary", moved).latency_us == pytest.approx(truth(moved), rel=0.03)


def test_few_samples_scale_the_curve_of_their_kin():
    prices = GluePrices.fit([*samples("unary", 600), *samples("binary", 30, 1.7)])
    assert prices.kinds["binary"].source == "fitted"
    for moved in (10_000, 5_000_000, 200_000_000):
        found = price(prices, "binary", moved)
        assert found.latency_us == pytest.approx(1.7 * truth(moved), rel=0.05)
        assert found.spread < 0.1


def test_one_sample_is_pulled_to_its_kin_but_not_past_it():
    base = samples("unary", 600)
    moved = 1_000_000
    prices = GluePrices.fit([*base, GlueSample("binary", moved, 2 * truth(moved))])
    assert truth(moved) < price(prices, "binary", moved).latency_us <= 2 * truth(moved)


def test_what_was_not_measured_is_borrowed_or_assumed_and_never_free():
    kinds = GluePrices.fit(samples("unary", 300)).kinds
    assert {kind: found.source for kind, found in kinds.items() if found.source != "borrowed"} == {
        "unary": "fitted"
    }
    assert all(found.spread >= 0.5 for kind, found in kinds.items() if kind != "unary")
    for prices in (GluePrices.fit([]), GluePrices()):
        for kind in kinds:
            found = price(prices, kind, 0)
            assert found.latency_us >= 1
            assert (found.source, found.spread) == ("assumed", 1)


def test_an_unknown_operator_is_assumed_even_where_its_like_was_measured():
    found = price(GluePrices.fit([*samples("unary", 300), *samples("transpose", 300)]), "unknown", 1_000_000)
    assert found.source == "assumed"
    assert found.spread >= 1
    assert found.latency_us == pytest.approx(truth(1_000_000), rel=0.03)


def test_linear_layers_stream_weights_from_memory_and_never_beat_the_device():
    prices = GluePrices.fit(samples("unary", 600), flops_per_us=1e8)
    in_cache = 20_000_000
    assert price(prices, "gemm", in_cache).latency_us > 1.2 * price(prices, "unary", in_cache).latency_us
    assert price(prices, "gemm", in_cache, macs=10**12).latency_us == 2e4


def test_prices_survive_json():
    prices = GluePrices.fit(samples("unary", 300), flops_per_us=5.0)
    again = GluePrices.from_json(json.loads(json.dumps(prices.to_json())))
    assert again.flops_per_us == 5
    for kind, found in prices.kinds.items():
        assert again.kinds[kind].curve.values_us == pytest.approx(found.curve.values_us)
        assert (again.kinds[kind].spread, again.kinds[kind].source) == (found.spread, found.source)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"format_version": 9}, "later version"), ({"kinds": 3}, "damaged"), ({"knots_bytes": None}, "damaged")],
)
def test_other_json_is_named(change, says):
    with pytest.raises(InputError, match=says):
        GluePrices.from_json(GluePrices.fit([]).to_json() | change)


@pytest.mark.parametrize(
    "bad", [GlueSample("magic", 1, 1), GlueSample("unary", 1, 0), GlueSample("unary", 1, float("nan"))]
)
def test_bad_samples_are_named(bad):
    with pytest.raises(InputError, match=r"unknown class|not a measured"):
        GluePrices.fit([bad])


def test_a_convolution_has_no_price_here():
    (conv, *_) = (k for k in kernels_of(network_of_spec(SPEC)) if k.kind == "conv")
    with pytest.raises(InputError, match="is a convolution"):
        GluePrices.fit([]).price(conv)


measured = st.lists(st.tuples(st.floats(0, 1e9), st.floats(0.1, 1e4)), min_size=1, max_size=30)


@settings(deadline=None, max_examples=50)
@given(measured)
def test_curves_ascend_whatever_was_measured(pairs):
    moved, times = (np.array(column) for column in zip(*pairs, strict=True))
    for curve in (fit_curve(moved, times), fit_on(Curve(tuple(1 + k / 1e6 for k in KNOTS)), moved, times)):
        steps = np.diff(curve.at(np.linspace(0, 2e9, 200)))
        assert (steps >= -1e-9 * max(curve.values_us)).all()
        assert min(curve.values_us) >= 0


def test_rows_give_a_sample_per_kernel_and_leave_out_what_is_missing():
    shapes = [ConvShape(2, channels, 8, 8, 32, precision="fp16", layout="nhwc") for channels in (3, 8, 64)]
    found = samples_of_rows(
        ConvColumns.of(shapes),
        bias_us=[1, 2, float("nan")],
        transpose_in_us=[4, 5, 6],
        transpose_out_us=[7, 8, 9],
    )
    size = 2 * 2 * 2 * 64  # read and written, two bytes, two images, pixels
    assert [(s.kind, s.moved_bytes, s.latency_us) for s in found] == [
        ("bias", 32 * size, 1), ("bias", 32 * size, 2),
        ("image_transpose", 3 * size, 4), ("transpose", 64 * size, 6),
        ("transpose", 32 * size, 7), ("transpose", 32 * size, 8), ("transpose", 32 * size, 9),
    ]  # fmt: skip
