"""Which rows one formula is fitted to."""

import numpy as np

from latency_model.columns import ConvColumns
from latency_model.regression.families import by_fit, by_kernel, structure
from latency_model.regression.geometry import Geometry
from latency_model.regression.parts import Tiling
from latency_model.shapes import ConvShape

from .conftest import columns_of, latency_of


def test_structures_differ_in_what_formulas_do_not_share() -> None:
    texts = (
        "8x64x56x56 ->128 k1 s2 p0 g1 conv fp16 nchw",
        "8x64x56x56 ->64 k3 s1 p1 g64 conv fp32 nchw",
        "8x64x56x56 ->64 k3 s1 p1 g1 conv fp32 nchw",
    )
    columns = ConvColumns.of([ConvShape.parse(text) for text in texts])
    assert structure(columns, Geometry.of(columns)) == ["1x1 s fp16", "dw fp32", "kxk fp32"]


def test_frequent_names_stay_and_rare_ones_lose_their_numbers() -> None:
    names = ["gemm_128x64"] * 50 + ["gemm_64x64"] * 15 + ["gemm_32x32"] * 15 + ["odd"] * 5 + [""] * 3
    found = by_kernel(names, ["kxk"] * len(names))
    assert found == ["gemm_128x64"] * 50 + ["gemm_#x#"] * 30 + ["kxk"] * 8


def test_kernels_around_the_main_one_tell_but_those_that_pad() -> None:
    pad = "void nhwcAddPaddingKernel<__half, (cudnn::Type)0>(int, int"
    turn = "void cudnn::engines::nchwToNhwcKernel<__half, __half>(int"
    texts = ["sgemm"] * 40 + [f"{pad};sgemm;{pad}"] * 40 + [f"{pad};{turn};sgemm"] * 40
    found = by_kernel(texts, ["kxk"] * 120)
    assert found == ["sgemm"] * 80 + ["sgemm + nchwToNhwcKernel"] * 40


def test_rows_of_two_formulas_part() -> None:
    columns = columns_of(300, 6)
    slow = np.random.default_rng(0).random(300) < 0.5
    latency = np.where(
        slow, 3.0 * latency_of(columns, tiling=Tiling(span=64, channels=64)), latency_of(columns)
    )
    sizes = Geometry.of(columns)
    labels = np.array(by_fit(sizes, latency, ["all"] * 300, units=108))
    # Every label is nearly all of one formula.
    pure = sum(max(slow[labels == name].sum(), (~slow[labels == name]).sum()) for name in set(labels))
    assert pure / 300 > 0.9


def test_too_few_rows_stay_together() -> None:
    columns = columns_of(50, 7)
    assert by_fit(Geometry.of(columns), latency_of(columns), ["all"] * 50, units=108) == ["all"] * 50
