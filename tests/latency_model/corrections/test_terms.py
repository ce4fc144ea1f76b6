import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import conv_shapes

from latency_model.corrections import Caches, TermsCorrection, part_of
from latency_model.corrections.terms import TERMS
from latency_model.errors import InputError
from latency_model.network import Axis, Channels, OpSite, Site
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

FULL = TermsCorrection(
    slopes={"dense": 1.02, "depthwise": 1.1, "op": 0.9},
    per_operator_us=0.4,
    cold_l2_us_per_mb=12.0,
    cold_l3_us_per_mb=30.0,
    activations_us_per_mb=2.0,
    depthwise_us_per_mb=11.0,
    call_us=7.0,
    networks=9,
    spread=0.03,
)
G, H = Channels(terms=(("g", 1),)), Channels(terms=(("h", 1),))


@given(conv_shapes(), st.floats(0, 1e4))
def test_without_terms_a_row_stays_what_it_is(shape, row):
    assert TermsCorrection().operator_us(shape, row, total_weight_bytes=1e9) == row


def test_a_share_is_the_sum_of_its_terms():
    shape = ConvShape(1, 64, 10, 10, 32, (1, 1), padding=(0, 0, 0, 0))
    weights, activations = 4 * 64 * 32 / 1e6, 4 * 100 * 96 / 1e6
    share = FULL.operator_us(shape, 50.0, total_weight_bytes=1e9)
    assert share == pytest.approx(1.02 * 50 + 0.4 + 42 * weights + 2 * activations)
    warm = FULL.operator_us(shape, 50.0, total_weight_bytes=1e5)
    assert warm == pytest.approx(1.02 * 50 + 0.4 + 2 * activations)
    depthwise = ConvShape(1, 64, 10, 10, 64, groups=64)
    share = FULL.operator_us(depthwise, 5.0, total_weight_bytes=0)
    assert share == pytest.approx(5.5 + 0.4 + 13 * 4 * 100 * 128 / 1e6)


def test_the_row_of_an_operator_with_many_weights_was_not_warm():
    many, more = (ConvShape(1, 1024, 1, 1, width, (3, 3)) for width in (1024, 2048))
    shares = [FULL.operator_us(shape, 0.0, total_weight_bytes=1e9) for shape in (many, more)]
    assert shares[1] - shares[0] == pytest.approx(2 * 4 * 1024 / 1e6)


SITES = [
    Site("dense", ConvShape(1, 9, 6, 6, 7), G, H),
    Site("grouped", ConvShape(2, 8, 6, 6, 12, groups=4, precision="fp16"), G, H),
    Site("depthwise", ConvShape(1, 12, 6, 6, 12, groups=12), G, G),
    OpSite("add", OpShape.parse("op Add 1x9x6x6 1x9x6x6 fp32 nchw"), (Axis(0, 1, G), Axis(1, 1, G))),
    OpSite(
        "linear",
        OpShape.parse("op Gemm 2x8 w10x8 w10 fp32 nchw"),
        (Axis(0, 1, G), Axis(1, 1, G), Axis(1, 0, H, "out"), Axis(2, 0, H, "out")),
    ),
]
SIZES = {"dense": (9, 7), "grouped": (8, 12), "depthwise": (12,), "add": (9,), "linear": (8, 10)}


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.name)
def test_a_matrix_is_the_share_at_each_count(site):
    sizes = SIZES[site.name]
    rows = np.random.default_rng(0).uniform(1, 9, [size + 1 for size in sizes])
    found = FULL.matrix(site, rows, total_weight_bytes=3e6)
    seen = 0
    for place in np.ndindex(found.shape):
        counts = dict(zip(("g", "h"), place if len(place) == 2 else place * 2, strict=True))
        if not min(place):
            assert found[place] == 0
        elif site.name == "grouped" and (place[0] % 4 or place[1] % 4):
            continue  # its groups do not divide these channels
        # With one channel left in a group a convolution is of another part, at the site it is not.
        elif part_of(shape := site.at(counts)) == part_of(site.shape):
            share = FULL.operator_us(shape, rows[place], total_weight_bytes=3e6)
            assert found[place] == pytest.approx(share)
            seen += 1
    assert seen == {"grouped": 3, "depthwise": 11}.get(site.name, np.prod(sizes))


factors = st.floats(0, 50)


@settings(max_examples=40)
@given(st.tuples(*[factors] * len(TERMS)), st.floats(0.1, 2), st.sampled_from(SITES), st.floats(0, 1e8))
def test_a_monotone_matrix_stays_monotone(values, slope, site, total):
    correction = TermsCorrection(
        dict.fromkeys(("dense", "grouped", "depthwise", "op", "reorder"), slope),
        **dict(zip(TERMS, values, strict=True)),
        caches=Caches(64, 1024),
    )
    rows = np.random.default_rng(1).uniform(0, 9, [size + 1 for size in SIZES[site.name]])
    for axis in range(rows.ndim):
        rows = np.maximum.accumulate(rows, axis)
        np.moveaxis(rows, axis, 0)[0] = 0
    before = rows.copy()
    found = correction.matrix(site, rows, total_weight_bytes=total)
    assert (rows == before).all()
    for axis in range(found.ndim):
        assert (np.diff(found, axis=axis) >= -1e-9).all()


def test_json_is_read_back_and_damage_is_said():
    data = json.loads(json.dumps(FULL.to_json()))
    assert TermsCorrection.from_json(data) == FULL
    with pytest.raises(InputError, match="later version"):
        TermsCorrection.from_json({**data, "format_version": 2})
    for name in ("slopes", "call_us", "l2_bytes"):
        with pytest.raises(InputError, match="damaged"):
            TermsCorrection.from_json({key: value for key, value in data.items() if key != name})
    with pytest.raises(InputError):
        TermsCorrection.from_json({**data, "call_us": -1.0})


def test_what_is_no_correction():
    for wrong in ({"slopes": {"dense": 0.0}}, {"call_us": float("nan")}, {"slopes": {"sparse": 1.0}}):
        with pytest.raises(InputError):
            TermsCorrection(**wrong)
    for name in TERMS:
        with pytest.raises(InputError):
            dataclasses.replace(FULL, **{name: -0.1})
