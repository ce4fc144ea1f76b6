"""Parts of the formulas against numbers by hand; formulas and processor counts of made-up devices."""

import json

import numpy as np
import pytest

from latency_model.columns import ConvColumns
from latency_model.regression.experts import Expert, fit_expert, search, unseen
from latency_model.regression.geometry import Geometry
from latency_model.regression.parts import Tiling, parts
from latency_model.regression.units import units_of
from latency_model.shapes import ConvShape

from .conftest import TILING, UNITS, columns_of, latency_of


def one(text: str, tiling: Tiling, units: int = 10) -> np.ndarray:
    return parts(Geometry.of(ConvColumns.of([ConvShape.parse(text)])), tiling, units)[0]


def test_parts_are_those_counted_by_hand() -> None:
    # 2 x 6 x 6 = 72 pixels are 2 tiles of 64; 24 channels are 3 of 8: 6 tiles of 64 x 8 x (16 x 9) products.
    found = one("2x16x6x6 ->24 k3 s1 p1 g1 conv fp16 nchw", Tiling(span=64, channels=8), 4)
    work = 64 * 8 * 16 * 9 / 1e9
    assert found[0] == pytest.approx(6 * work)
    # In rounds of 4, 8, 12 and 16 tiles, and how many rounds.
    assert found[1:9] == pytest.approx([8 * work, 0.2, 8 * work, 0.1, 12 * work, 0.1, 16 * work, 0.1])
    assert found[9:12] == pytest.approx([72 * 16 / 1e6, 72 * 24 / 1e6, 24 * 16 * 9 / 1e6])
    assert found[12:16] == pytest.approx([0, 0, 50, 0.144])
    # 16 channels are whole pairs of vectors of 8, but not four or eight of them.
    assert found[16:19] == pytest.approx([0, 0, 0])
    assert found[19:22] == pytest.approx([6 * work, 72 * 16 / 1e6, 72 * 16 * 9 * 3 / 1e8])
    assert not found[25:].any()


def test_what_is_not_whole_vectors_is_padded_and_paid_for() -> None:
    text = "1x10x8x8 ->12 k1 s1 p0 g1 conv fp16 nchw"
    padded, plain = (
        one(text, Tiling(span=64, channels=16, padded=True)),
        one(text, Tiling(span=64, channels=16)),
    )
    assert padded[0] == pytest.approx(64 * 16 * 16 / 1e9)
    assert plain[0] == pytest.approx(64 * 16 * 10 / 1e9)
    assert padded[25:28] == pytest.approx([50, 64 * 16 / 1e6, 16 * 16 / 1e6])
    assert plain[25:28] == pytest.approx([50, 64 * 10 / 1e6, 12 * 10 / 1e6])
    assert padded[30:33] == pytest.approx([50, 64 * 16 / 1e6, 16 * 16 / 1e6])
    # Vectors of fp32 have 4 channels: 12 are whole ones.
    assert not one(text.replace("fp16", "fp32"), Tiling())[30:].any()


def test_transforms_groups_and_depthwise() -> None:
    # Winograd: 9 rectangles of 2 x 2 fit in one tile of 32; 16 products; 8 channels deep.
    found = one("1x8x6x6 ->8 k3 s1 p1 g1 conv fp16 nchw", Tiling(1, 2, 2, 16, 32, 8))
    assert found[0] == pytest.approx(16 * 32 * 8 * 8 / 1e9)
    grouped = one("1x32x8x8 ->32 k3 s1 p1 g4 conv fp16 nchw", Tiling(span=64, channels=8, depth=16))
    assert grouped[0] == pytest.approx(4 * 64 * 8 * 16 * 9 / 1e9)
    depthwise = one("1x32x8x8 ->32 k3 s1 p1 g32 conv fp16 nchw", Tiling(span=64, channels=32, depth=16))
    assert depthwise[0] == pytest.approx(64 * 32 * 9 / 1e9)


def test_the_tiling_of_a_device_is_found() -> None:
    columns = columns_of(400, 1)
    found = search(Geometry.of(columns), latency_of(columns), units=UNITS)
    assert found.error < 0.002
    others = columns_of(200, 2)
    error = np.abs(found.predict(Geometry.of(others)) / latency_of(others) - 1)
    assert error.mean() < 0.005
    wrong = fit_expert(Geometry.of(columns), latency_of(columns), Tiling(span=32, channels=32), UNITS)
    assert wrong.error > 5 * found.error


@pytest.mark.parametrize("units", [40, 108, 132])
def test_the_number_of_processors_is_found(units: int) -> None:
    columns = columns_of(250, 3)
    noise = np.random.default_rng(0).lognormal(0, 0.02, 250)
    latency = latency_of(columns, units=units) * noise
    assert units_of(Geometry.of(columns), latency, ["all"] * 250) == units


def test_formulas_of_unseen_rows_are_no_better_than_they_should_be() -> None:
    columns, rng = columns_of(40, 4), np.random.default_rng(1)
    sizes, noise = Geometry.of(columns), rng.lognormal(0, 0.2, 40) * 20
    expert = fit_expert(sizes, noise, TILING, UNITS)
    assert np.abs(unseen(expert, sizes, noise) / noise - 1).mean() > 1.03 * expert.error


def test_an_expert_goes_through_json() -> None:
    columns = columns_of(60, 5)
    sizes = Geometry.of(columns)
    expert = fit_expert(sizes, latency_of(columns), Tiling(4, 8, 4, 0, 64, 32, 16, True), 30)
    again = Expert.from_json(json.loads(json.dumps(expert.to_json())))
    assert again == expert
    np.testing.assert_array_equal(again.predict(sizes), expert.predict(sizes))


def test_only_strided_points_pay_for_turning_their_weights() -> None:
    strided = one("1x10x8x8 ->16 k1 s2 p0 g1 conv fp16 nchw", Tiling(padded=True))
    assert strided[28:30] == pytest.approx([50, 16 * 16 / 1e6])
    for text in ("1x10x8x8 ->16 k1 s1 p0 g1 conv fp16 nchw", "1x10x8x8 ->16 k3 s2 p1 g1 conv fp16 nchw"):
        assert not one(text, Tiling(padded=True))[28:30].any()
