import dataclasses
import re

import numpy as np
import pytest

from latency_model.environment import Environment
from latency_model.errors import InputError, TableError
from latency_model.kernel_names import clean_kernel, short_kernels
from latency_model.measurement import Measurement
from latency_model.plots import draw
from latency_model.plots.heat import heat_map
from latency_model.plots.lines import staircase
from latency_model.plots.points import choose_site
from latency_model.plots.style import COLOURS, OTHER, kernel_colours
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

SHAPE = ConvShape.parse("8x16x14x14 ->16 k3 s1 p1 g1 conv+bias+relu fp16 nhwc")
DEPTHWISE = ConvShape.parse("1x16x8x8 ->16 k5 s1 p2 g16 conv+bias+relu fp16 nhwc")
GPU = Environment("Some GPU", "cuda", "fake", "1", cuda="13.0")


def row(us, kernel="k"):
    kernels = ((kernel, 0.7), ("other", 0.3)) if kernel else ()
    return Measurement(us, us * 0.9, us * 1.1, us, us, us, us, us, 9, "kernel-trace", kernels)


def latency(a, b):
    return 5 + a * (b if b % 8 == 0 else 2 * b) / 50 + (20 if b == 40 else 0)


@pytest.fixture
def table():
    counts = [(a, b) for a in (8, 16, 64) for b in (8, 12, 16, 24, 32, 40, 48)] + [(24, 8), (32, 8)]
    rows = {
        SHAPE.with_channels(a, b): row(latency(a, b), "small" if b < 24 else "large_kernel")
        for a, b in counts
    }
    rows |= {DEPTHWISE.with_channels(c, c): row(c) for c in (8, 16, 24)}
    return LatencyTable(GPU, rows)


def test_the_site_with_the_most_rows_is_chosen(table):
    assert choose_site([table], []).site == SHAPE.site
    found = choose_site([table], ["k5"])
    assert (found.site, found.matching, len(found.tables[0])) == (DEPTHWISE.site, 1, 3)
    with pytest.raises(TableError, match="k9"):
        choose_site([table], ["k9"])


def test_a_site_that_all_tables_have_comes_first(table):
    other = LatencyTable(GPU, {s: m for s, m in table.items() if s.depthwise})
    assert choose_site([table, other], []).site == DEPTHWISE.site


def test_sites_are_those_of_the_shapes(synthetic):
    shapes = [
        ConvShape(1, 8, 9, 9, 16), ConvShape(1, 8, 9, 8, 16), ConvShape(2, 8, 9, 9, 16),
        ConvShape(1, 8, 9, 9, 16, groups=2), ConvShape(1, 8, 9, 9, 8, groups=8), ConvShape(1, 4, 9, 9, 8, groups=4),
        ConvShape(1, 16, 9, 9, 16, groups=16), ConvShape(1, 24, 9, 9, 16),
    ]  # fmt: skip
    table = LatencyTable(GPU, {shape: row(1) for shape in shapes})
    assert choose_site([table], []).matching == len({shape.site for shape in shapes})


def test_staircases_have_the_rows_as_they_are(table):
    stairs = staircase(choose_site([table], []))
    assert [line.label for line in stairs.lines] == [f"{count} input channels" for count in (64, 16, 8)]
    assert "2 more input counts" in stairs.note
    for line, count in zip(stairs.lines, (64, 16, 8), strict=True):
        assert line.counts == (8, 12, 16, 24, 32, 40, 48)
        assert [p.row.latency_us for p in line.points] == [latency(count, b) for b in line.counts]
        assert line.aligned == tuple(b % 8 == 0 for b in line.counts)
        for place in range(len(line.counts)):
            assert line.envelope_us[place] == min(p.row.latency_us for p in line.points[place:])
        assert line.changes == [20.0]


def test_over_the_inputs_and_at_chosen_counts(table):
    found = choose_site([table], [])
    (line,) = staircase(found, over="in", at=[8]).lines
    assert (line.label, line.counts) == ("8 output channels", (8, 16, 24, 32, 64))
    with pytest.raises(TableError, match=r"no row of this site has 9 input channels; near it are 8, 16"):
        staircase(found, at=[9])
    with pytest.raises(InputError, match="out or in"):
        staircase(found, over="up")


def test_no_line_joins_points_with_a_hole_between():
    counts = [8, 16, 24, 32, 512]
    table = LatencyTable(GPU, {SHAPE.with_channels(8, b): row(b) for b in counts})
    (line,) = staircase(choose_site([table], [])).lines
    assert line.runs(aligned=True) == [[0, 1, 2, 3], [4]] and line.runs(aligned=False) == []


def test_alignment_matters_on_a_gpu_only(table):
    cpu = LatencyTable(dataclasses.replace(GPU, kind="cpu"), table.rows)
    assert all(all(line.aligned) for line in staircase(choose_site([cpu], [])).lines)


def test_sparse_grids_say_so(table):
    assert choose_site([table], []).coverage == "23 of 35 pairs of these counts were measured"


def test_heat_maps(table):
    found = choose_site([table], [])
    heat = heat_map(found, "latency")
    assert (heat.inputs, heat.outputs) == ((8, 16, 24, 32, 64), (8, 12, 16, 24, 32, 40, 48))
    assert heat.values[1, 3] == latency(16, 24) and np.isnan(heat.values[2, 1])
    assert np.isfinite(heat.values).sum() == 23
    macs = heat_map(found, "per-mac")
    assert macs.values[0, 0] == pytest.approx(latency(8, 8) * 1e6 / SHAPE.with_channels(8, 8).macs)
    kernels = heat_map(found, "kernel")
    assert len(np.unique(kernels.values[np.isfinite(kernels.values)])) == 2
    assert kernels.texts[0][0].startswith("8 to 8 channels: small, ")
    twice = LatencyTable(GPU, {s: row(2 * m.latency_us) for s, m in table.items()})
    ratio = heat_map(choose_site([table, twice], []), "ratio")
    assert np.nanmin(ratio.values) == np.nanmax(ratio.values) == 2


def test_heat_maps_refuse_what_they_cannot_show(table):
    found = choose_site([table], [])
    for kind, match in (("ratio", "two tables"), ("speed", "latency, per-mac, ratio, kernel")):
        with pytest.raises(InputError, match=match):
            heat_map(found, kind)
    with pytest.raises(InputError, match="one channel count"):
        heat_map(choose_site([table], ["k5"]), "latency")
    bare = LatencyTable(GPU, {s: row(1, kernel="") for s in table})
    with pytest.raises(InputError, match="names its kernels"):
        heat_map(choose_site([bare], []), "kernel")


@pytest.mark.parametrize("ending", ["png", "html"])
@pytest.mark.parametrize(
    ("tables", "options"),
    [
        (1, {}),
        (1, {"at": [16]}),
        (2, {"over": "in"}),
        (1, {"words": ["k5"]}),
        (1, {"heat": "latency"}),
        (1, {"heat": "kernel"}),
        (2, {"heat": "ratio"}),
    ],
)
def test_every_picture_can_be_drawn(table, tmp_path, ending, tables, options):
    out = tmp_path / f"p.{ending}"
    drawn = draw([table] * tables, out, **options)
    assert drawn["rows"] > 0
    data = out.read_bytes()
    if ending == "png":
        assert data.startswith(b"\x89PNG") and len(data) > 10_000
    else:
        page = data.decode()
        assert "Some GPU" in page and "prefers-color-scheme: dark" in page
        # Nothing is fetched: no script, style sheet or image by address.
        assert not re.search(r"<(?:script|link|img)[^>]*(?:src|href)=[\"']?https?:", page)


def test_pictures_refuse_other_files_and_too_many_tables(table, tmp_path):
    with pytest.raises(InputError, match=r"\.png or \.html"):
        draw([table], tmp_path / "p.gif")
    with pytest.raises(InputError, match="1 to 4 tables"):
        draw([table] * 5, tmp_path / "p.png")


def test_kernels_beyond_the_palette_share_a_colour():
    names = [f"k{i}" for i in range(12) for _ in range(20 - i)]
    found = kernel_colours([*names, ""])
    assert [found.colours[f"k{i}"] for i in range(9)] == [*COLOURS, OTHER]
    assert found.legend()[-1] == (OTHER, "4 other kernels") and len(found.legend()) == 9


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("void cutlass::Kernel2<cutlass_80_s1688gemm_64x64>(cutlass_80::Params)", "cutlass_80_s1688gemm_64x64"),
        ("void cudnn::cnn::conv2d_grouped_direct_kernel<false, 0>(int)", "conv2d_grouped_direct_kernel"),
        ("sm80_xmma_gemm_kernel__5x_cudnn", "sm80_xmma_gemm_kernel"),
        ("nvjet_sm90_hsh_64x8", "nvjet_sm90_hsh_64x8"),
        ("", ""),
    ],
)  # fmt: skip
def test_clean_names(name, clean):
    assert clean_kernel(name) == clean


def test_short_names_are_short_and_different():
    names = [
        f"sm90_{'xmma_fprop_implicit_gemm_' * 3}tilesize{a}x{b}_stage" for a in (64, 128) for b in (32, 64)
    ]
    names += ["void f<1>(int)", "void f<2>(int)", "x" * 200]
    labels = short_kernels(names)
    assert len(set(labels.values())) == len(names) and max(map(len, labels.values())) <= 48
    assert "64x32" in labels[names[0]]
