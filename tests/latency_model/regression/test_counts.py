"""Counts of a CPU's kernels against loops that do what the kernels do, and which kernel runs."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from latency_model.columns import ConvColumns
from latency_model.harvest.fusion import runs_blocked_conv
from latency_model.regression.blocked import blocked_counts
from latency_model.regression.counts import GROUPS, counts, path_features
from latency_model.regression.geometry import Geometry
from latency_model.regression.paths import Paths, paths
from latency_model.regression.products import panel, product_counts
from latency_model.shapes import ConvShape


def sizes_of(*texts: str) -> Geometry:
    return Geometry.of(ConvColumns.of([ConvShape.parse(f"{text} fp32 nchw") for text in texts]))


@st.composite
def shapes(draw: st.DrawFn) -> ConvShape:
    kernel, stride = draw(st.sampled_from((1, 2, 3, 5))), draw(st.sampled_from((1, 2)))
    kind = draw(st.sampled_from(("dense", "depthwise", "grouped")))
    if kind == "dense":
        inputs, outputs, groups = draw(st.integers(1, 150)), draw(st.integers(1, 150)), 1
    elif kind == "depthwise":
        inputs = outputs = groups = draw(st.integers(2, 70))
    else:
        groups = draw(st.integers(2, 4))
        inputs, outputs = groups * draw(st.integers(2, 40)), groups * draw(st.integers(2, 40))
    image = draw(st.integers(kernel, 20))
    return ConvShape.parse(
        f"{draw(st.integers(1, 3))}x{inputs}x{image}x{image} ->{outputs} k{kernel} s{stride} "
        f"p{draw(st.integers(0, kernel // 2))} g{groups} conv+bias fp32 nchw"
    )


def taken(pixels: int, most: tuple[int, ...] = (6, 3, 2, 1)) -> list[int]:
    """Return the pixels that a kernel takes at once, one after the other."""
    found = []
    while pixels:
        found.append(next(size for size in most if size <= pixels))
        pixels -= found[-1]
    return found


def blocked_by_loops(shape: ConvShape) -> dict[str, float]:
    """Return the counts of a blocked kernel from the loops that ONNX Runtime makes."""
    stride, kernel, pad = shape.stride[0], shape.kernel[0], shape.padding[0]
    depthwise = shape.depthwise and shape.out_channels == shape.groups
    image = shape.groups == 1 and shape.in_channels < 16
    point = kernel == 1 and pad == 0 and not depthwise and not image
    per_group = shape.out_channels // shape.groups
    filters = 1 if depthwise else math.ceil(per_group / 16)
    groups = math.ceil(shape.groups / 16) if depthwise else shape.groups
    depth = shape.in_channels // shape.groups
    runs = [16] * math.ceil(depth / 16)
    if depthwise or image:
        runs = [1] * (1 if depthwise else depth)
    elif point:
        blocks = math.ceil(depth / 16)
        runs = [16 * min(8, blocks - begin) for begin in range(0, blocks, 8)]
    rows = [[range(shape.out_width)] for _ in range(shape.out_height)]
    if point and stride == 1:
        rows = [[range(shape.out_height * shape.out_width)]]
    found = dict.fromkeys(("adds", "busy", "loads", "visits", "groups", "rows", "runs", "vectors"), 0.0)
    for _, begin in itertools.product(range(shape.batch * groups), range(0, filters, 4)):
        count = min(4, filters - begin)
        for run in runs:
            found["runs"] += 1
            for y, (row,) in enumerate(rows):
                found["rows"] += 1
                found["vectors"] += len(row) * count
                if point:
                    taps, whole, edges = 1, len(row), []
                else:
                    taps = sum(0 <= y * stride - pad + tap < shape.height for tap in range(kernel))
                    reach = [
                        sum(0 <= x * stride - pad + tap < shape.width for tap in range(kernel)) for x in row
                    ]
                    # Windows that begin in the padding are taken alone, even whole ones are not counted so.
                    alone = [
                        x for x in row if x * stride - pad < 0 or x * stride - pad + kernel > shape.width
                    ]
                    edges = [reach[x] for x in alone]
                    whole = len(row) - len(alone)
                each = [(size, kernel) for size in taken(whole)] + [(1, reach) for reach in edges]
                for size, wide in each:
                    steps = wide * taps * run
                    found["groups"] += 1
                    found["adds"] += steps * size * count
                    found["busy"] += steps * max(8, size * count)
                    found["loads"] += steps * (size + count)
                    found["visits"] += steps
    return found


@example(ConvShape.parse("2x300x5x5 ->90 k1 s1 p0 g1 conv fp32 nchw"))
@given(shapes())
def test_blocked_kernels_count_what_their_loops_do(shape: ConvShape) -> None:
    sizes = Geometry.of(ConvColumns.of([shape]))
    ways = Paths.of(sizes)
    if not ways.blocked[0]:
        return
    found, truth = blocked_counts(sizes, ways)[0], blocked_by_loops(shape)
    assert found[[0, 1, 2, 11]] * 1e5 == pytest.approx(
        [truth[n] for n in ("adds", "busy", "loads", "visits")]
    )
    assert found[[4, 5]] * 1e3 == pytest.approx([truth["groups"], truth["rows"]])
    assert found[6] * 1e2 == pytest.approx(truth["runs"])
    assert found[7] * 1e4 == pytest.approx(truth["vectors"])


@given(shapes())
def test_products_count_what_their_loops_do(shape: ConvShape) -> None:
    sizes = Geometry.of(ConvColumns.of([shape]))
    ways = Paths.of(sizes)
    if ways.blocked[0]:
        return
    m, n = shape.out_channels // shape.groups, shape.out_height * shape.out_width
    k = shape.in_channels // shape.groups * shape.kernel[0] * shape.kernel[1]
    wide, high = 128, 128
    if n >= k:
        while high // 2 >= k:
            wide, high = wide * 2, high // 2
    else:
        while wide > 16 and wide // 2 >= n:
            wide, high = wide // 2, high * 2
    assert [float(each[0]) for each in panel(np.array([float(n)]), np.array([float(k)]))] == [wide, high]
    adds = busy = loads = groups = panels = 0
    for right, deep in itertools.product(range(0, n, wide), range(0, k, high)):
        panels += 1
        steps, columns = min(high, k - deep), min(wide, n - right)
        for rows in taken(m, (12, 6, 5, 4, 3, 2, 1)):
            # Pairs of vectors of 16 pixels, and one alone.
            for vectors in taken(math.ceil(columns / 16), (2, 1)):
                groups += 1
                adds += steps * rows * vectors
                busy += steps * max(8, rows * vectors)
                loads += steps * (rows + vectors)
    found, repeats = product_counts(sizes, ways)[0], shape.batch * shape.groups
    assert found[[0, 1, 2]] * 1e5 == pytest.approx(np.array([adds, busy, loads]) * repeats)
    assert found[4] * 1e3 == pytest.approx(groups * repeats)
    assert found[5] * 1e2 == pytest.approx(panels * repeats)


@given(shapes())
def test_the_layout_is_that_of_the_harvest(shape: ConvShape) -> None:
    blocked = Paths.of(Geometry.of(ConvColumns.of([shape]))).blocked
    assert bool(blocked[0]) == runs_blocked_conv(shape)


def test_each_path_has_its_name() -> None:
    named = {
        "1x3x32x32 ->16 k3 s2 p1 g1 conv+bias": "image",
        "1x8x32x32 ->16 k1 s1 p0 g1 conv+bias": "image 1x1",
        "1x64x32x32 ->64 k1 s1 p0 g1 conv+bias": "blocked 1x1",
        "1x64x32x32 ->64 k1 s2 p0 g1 conv+bias": "blocked 1x1 s",
        "1x20x32x32 ->17 k3 s2 p1 g1 conv+bias": "blocked",
        "1x20x32x32 ->20 k3 s1 p1 g20 conv+bias": "blocked dw",
        "1x64x32x32 ->64 k3 s1 p1 g4 conv+bias": "blocked",
        "1x18x32x32 ->64 k1 s1 p0 g1 conv+bias": "product",
        "1x18x1x1 ->64 k1 s1 p0 g1 conv+bias": "vector",
        "1x64x1x1 ->18 k1 s1 p0 g1 conv+bias": "vector bare",
        "1x18x32x32 ->64 k1 s2 p0 g1 conv+bias": "unfolded",
        "1x18x4x4 ->64 k3 s1 p1 g1 conv+bias": "unfolded whole",
        "1x18x32x32 ->18 k3 s2 p1 g18 conv+bias": "unfolded dw s",
        "1x32x32x32 ->96 k3 s1 p1 g32 conv+bias": "unfolded dw",
        "1x48x32x32 ->48 k3 s1 p1 g4 conv+bias": "unfolded groups",
    }
    assert paths(sizes_of(*named)) == list(named.values())


def test_what_is_around_the_kernel_is_counted_by_hand() -> None:
    # 20 channels are two blocks of 16 to 24 x 24 pixels of two images, then read by a product of 18.
    found = counts(sizes_of("2x20x24x24 ->18 k1 s1 p0 g1 conv+bias+add+relu"))[0, 14:]
    moved = 2 * 576 * 32
    assert found[:6] == pytest.approx([1, moved / 1e5, moved / 1e5, 360 / 1e5, moved / 1e5, 1])
    assert found[6:13] == pytest.approx([0, 0, 2 * 576 * 18 / 1e5, 4 / 1e2, 1, 0, 0])
    assert found[13:16] == pytest.approx([0, (2 * moved + 360 - 12e3) / 1e5, 0])
    # The other way round, and an activation that is not a ReLU.
    found = counts(sizes_of("2x18x24x24 ->20 k1 s1 p0 g1 conv+bias+clip"))[0, 14:]
    assert found[4:13] == pytest.approx([0, 0, 2 * 576 * 20 / 1e5, 0, 0, 0, 0, 2 * 576 * 20 / 1e5, 1])
    bare = counts(sizes_of("2x18x1x1 ->50 k1 s1 p0 g1 conv+bias", "2x18x1x1 ->52 k1 s1 p0 g1 conv+bias"))
    assert bare[:, 27].tolist() == [-0.1, 0.0]


def test_every_count_is_of_one_group_and_no_feature_is_infinite() -> None:
    sizes = sizes_of("1x16x8x8 ->32 k3 s1 p1 g1 conv", "8x1x1x1 ->1 k1 s1 p0 g1 conv")
    found = counts(sizes)
    assert sorted(itertools.chain(*GROUPS)) == list(range(found.shape[1]))
    assert np.isfinite(path_features(sizes)).all()
    none = sizes.take(np.zeros(2, dtype=bool))
    assert counts(none).shape == (0, found.shape[1])
