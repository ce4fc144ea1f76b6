import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import conv_shapes, tables

from latency_model import ConvShape, LatencyTable
from latency_model.errors import InputError, RowsError
from latency_model.exports import export
from latency_model.ops import OpShape
from latency_model.rows import Defaults, is_latency_table, read_rows

ENDINGS = ("rows.parquet", "rows.csv", "rows.csv.gz", "ROWS.CSV")


@pytest.mark.parametrize("name", ENDINGS)
def test_plain_rows_are_read(rows, saved, name):
    path = saved(rows.frame({}, {"in_channels": 8, "latency_us": 2.5}, remark="ignored"), name)
    found = read_rows(path)
    text = "->32 k3 s1 p1 g1 conv fp16 nchw"
    assert [shape.text for shape in found.columns] == [f"1x16x14x14 {text}", f"1x8x14x14 {text}"]
    assert found.latency_us.tolist() == [10, 2.5]
    assert (found.unit, found.file_rows, len(found), found.origin) == ("us", 2, 2, path)
    assert (found.low_us, found.p10_us, found.kernel_names, found.device) == (None, None, None, None)
    assert found.notes == ("assumed, as the file does not say: width = height, pattern conv, layout nchw",)


def test_what_is_missing_is_assumed_and_said(rows, saved):
    gone = ("stride", "padding", "groups", "precision")
    path = saved(rows.frame({"kernel_size": 5}, {"kernel_size": 1}, drop=gone))
    found = read_rows(path)
    assert [s.text for s in found.columns] == [
        "1x16x14x14 ->32 k5 s1 p2 g1 conv fp32 nchw",
        "1x16x14x14 ->32 k1 s1 p0 g1 conv fp32 nchw",
    ]
    (note,) = found.notes
    for said in (
        "width = height",
        "stride 1",
        "padding = kernel_size // 2",
        "groups 1",
        "precision fp32",
        "layout nchw",
    ):
        assert said in note


def test_empty_cells_mean_what_a_missing_column_means(rows, saved):
    data = rows.frame({}, {"in_channels": 8}, width=20).astype({"width": object, "groups": object})
    data.loc[1, ["width", "groups", "precision"]] = None
    found = read_rows(saved(data, "rows.csv"))
    assert [s.text for s in found.columns] == [
        "1x16x14x20 ->32 k3 s1 p1 g1 conv fp16 nchw",
        "1x8x14x14 ->32 k3 s1 p1 g1 conv fp32 nchw",
    ]
    assert "width = height (in 1 row), groups 1 (in 1 row)" in found.notes[0]
    assert "precision fp32 (in 1 row)" in found.notes[0]


def test_defaults_of_other_rows_stand_in(rows, saved):
    first = read_rows(saved(rows.frame(layout="nhwc")))
    assert first.defaults == Defaults("fp16", "nhwc", "conv", "us")
    path = saved(rows.frame(drop=("precision", "latency_us")), "ask.csv")
    asked = read_rows(path, latency="optional", defaults=first.defaults)
    assert list(asked.columns) == list(first.columns)
    assert (asked.unit, asked.latency_us) == ("us", None)
    assert read_rows(path, latency="optional").unit == "ms"
    mixed = read_rows(saved(rows.frame({}, {"precision": "int8"})))
    assert mixed.defaults.precision == "fp32"
    with pytest.raises(RowsError, match="unknown precision 'fp5' as the default"):
        read_rows(path, latency="optional", defaults=Defaults("fp5"))


def test_the_probe_is_taken_as_it_is(rows, saved):
    found = read_rows(saved(rows.probe()))
    assert [s.text for s in found.columns] == [
        "8x256x14x14 ->4 k3 s1 p1 g1 conv fp16 nhwc",
        "8x256x14x14 ->4 k1 s1 p0 g1 conv fp16 nhwc",
    ]
    assert found.latency_us.tolist() == pytest.approx([14.1, 9.0])
    assert (found.low_us[0], found.high_us[0]) == (13.95, 14.25)
    assert np.isnan([found.low_us[1], found.high_us[1]]).all()
    assert (found.p10_us.tolist(), found.p90_us.tolist()) == ([13.8, 8.9], [14.6, 9.5])
    assert found.place.tolist() == [0, 1, 0]
    assert list(found.main_kernels) == ["sm80_xmma_fprop_implicit_gemm"] * 2
    assert found.kernel_names[0].count(";") == 2
    assert {name: values[1] for name, values in found.extras.items()} == {
        "bias_us": 1.9,
        "relu_us": 1.25,
        "transpose_in_us": 2.25,
        "transpose_out_us": 1.5,
    }
    assert found.unit == "us"
    assert "precision fp16, layout nhwc" in found.notes[0]
    asked = read_rows(saved(rows.probe().drop(columns="conv_us"), "ask.csv"), latency="optional")
    assert list(asked.columns) == list(found.columns)
    assert "2 rows are of 1 convolution given several times" in found.notes[1]


def test_times_beside_the_convolution_that_are_none_are_unknown(rows, saved):
    data = rows.probe()
    data.loc[1, "bias_us"] = -1
    found = read_rows(saved(data))
    assert np.isnan(found.extras["bias_us"][1])
    assert "column bias_us not used in 1 row, where it is no time" in found.notes


@pytest.mark.parametrize("name", ENDINGS[:2])
def test_milliseconds(rows, saved, name):
    data = rows.frame({}, {"height": 7}, drop=["latency_us"])
    data["latency_ms"] = [0.25, 0.125]
    found = read_rows(saved(data, name))
    assert (found.latency_us.tolist(), found.unit) == ([250, 125], "ms")


def test_both_units_must_agree(rows, saved):
    found = read_rows(saved(rows.frame({"latency_ms": 0.01}, {"height": 7, "latency_ms": 0.0104})))
    assert (found.latency_us.tolist(), found.unit) == ([10, 10], "us")
    path = saved(rows.frame({"latency_ms": 0.01}, {"height": 7, "latency_ms": 10}))
    with pytest.raises(RowsError, match=r"in 1 row latency_us and latency_ms disagree \(row 2\)"):
        read_rows(path)


def test_equal_rows_become_their_median(rows, saved):
    a, b = {"latency_us": 10.0}, {"height": 7, "latency_us": 4.0}
    data = rows.frame(a, b, {"latency_us": 10.3}, {"latency_us": 10.1}, {**b, "latency_us": 4.2})
    data["kernel_name"] = ["slow", "first", "slowest", "median", "second"]
    found = read_rows(saved(data))
    assert found.latency_us.tolist() == pytest.approx([10.1, 4.1])
    assert (found.low_us.tolist(), found.high_us.tolist()) == ([10, 4], [10.3, 4.2])
    assert found.place.tolist() == [0, 1, 0, 0, 1]
    assert found.kernel_names.tolist() == ["median", "first"]
    assert found.in_file_order(np.array([1.0, 2.0])).tolist() == [1, 2, 1, 1, 2]
    assert "5 rows are of 2 convolutions given several times, joined to the median" in found.notes[1]
    assert "differ by up to 5.0%" in found.notes[1]


def test_equal_rows_that_disagree(rows, saved):
    path = saved(rows.frame({}, {"batch": 2}, {"latency_us": 15.0}))
    with pytest.raises(RowsError, match=r"more than 10%, of 1 convolution \(rows 1, 3: 10 to 15 us\); keep"):
        read_rows(path)
    for found in (read_rows(path, on_bad="drop"), read_rows(path, latency="optional")):
        assert found.latency_us.tolist() == [12.5, 10]
        assert (found.low_us[0], found.high_us[0]) == (10, 15)
        assert any("the median was taken of equal rows" in note for note in found.notes)
    assert len(read_rows(path, agree=0.5)) == 2
    with pytest.raises(RowsError, match="differ by more than 2%"):
        read_rows(saved(rows.frame({}, {"latency_us": 10.3})), agree=0.02)


def test_bounds_of_the_file(rows, saved):
    data = rows.frame({"low_us": 9.0, "high_us": 11.0}, {"latency_us": 10.5, "low_us": 10.0, "high_us": 12.0})
    found = read_rows(saved(data))
    assert (found.low_us.tolist(), found.high_us.tolist()) == ([9], [12])
    data = rows.frame({"low_ms": 0.009, "high_ms": 0.012}, {"batch": 2})
    found = read_rows(saved(data))
    assert (found.low_us[0], found.high_us[0]) == pytest.approx((9, 12))
    assert np.isnan(found.low_us[1])
    bad = rows.frame({"low_us": 9.0, "high_us": 11.0}, {"batch": 2, "low_us": 11.0, "high_us": 12.0})
    with pytest.raises(RowsError, match=r"low_us to high_us does not hold the latency \(row 2\)"):
        read_rows(saved(bad))
    half = rows.frame({"low_us": 9.0, "high_us": 11.0}, {"batch": 2, "low_us": 9.0})
    with pytest.raises(RowsError, match=r"one of low_us and high_us is empty \(row 2\)"):
        read_rows(saved(half))
    single = read_rows(saved(rows.frame(low_us=9.0)))
    assert single.low_us is None
    assert "column low_us not used: the other bound is missing" in single.notes
    predicted = read_rows(saved(rows.frame(predicted_us=1.0, low_us=0.5, high_us=2.0)))
    assert predicted.low_us is None
    assert "its columns low and high belong to predictions and were not used" in predicted.notes


def test_one_device_a_file(rows, saved):
    assert read_rows(saved(rows.frame({}, {"batch": 2}, device="Tesla T4"))).device == "Tesla T4"
    with pytest.raises(RowsError, match=r"rows of 2 devices \(A, B\); split it"):
        read_rows(saved(rows.frame({"device": "A"}, {"batch": 2, "device": "B"})))


def test_kernels_that_are_no_squares(rows, saved):
    data = rows.frame(kernel_width=1, stride_width=2, dilation=2, drop=["padding"])
    (shape,) = read_rows(saved(data)).columns
    assert shape.text == "1x16x14x14 ->32 k3x1 s1x2 p1x0 d2 g1 conv fp16 nchw"
    (shape,) = read_rows(saved(data.assign(padding=2, padding_bottom=3))).columns
    assert shape.padding == (2, 2, 3, 2)


@pytest.mark.parametrize("word", ["fp16", "FP16", "float16", "half", " fp16 "])
def test_other_names_of_a_precision(rows, saved, word):
    assert read_rows(saved(rows.frame(precision=word))).columns.kinds[0].precision == "fp16"


def test_types_that_hold_the_same_numbers(rows, saved):
    data = rows.frame({}, {"batch": 2})
    first = read_rows(saved(data))
    changed = data.assign(
        batch=data["batch"].astype("int8"),
        in_channels=data["in_channels"].astype(float),
        out_channels=data["out_channels"].astype(str),
        precision=data["precision"].astype("category"),
        latency_us=data["latency_us"].astype("float32"),
    )
    second = read_rows(saved(changed))
    assert list(first.columns) == list(second.columns)
    assert second.latency_us.tolist() == first.latency_us.tolist()
    with pytest.raises(RowsError, match="in 2 rows batch is no number"):
        read_rows(saved(data.assign(batch=True)))


def test_files_that_are_none(rows, saved, tmp_path, synthetic):
    with pytest.raises(RowsError, match=r"its ending must be \.parquet, \.csv, \.csv\.gz"):
        read_rows(tmp_path / "rows.xlsx")
    with pytest.raises(RowsError, match="no such file"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(RowsError, match="is a folder"):
        read_rows(tmp_path / "folder.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(RowsError, match="is empty"):
        read_rows(tmp_path / "empty.csv")
    for name in ENDINGS[:3]:
        with pytest.raises(RowsError, match="has no rows"):
            read_rows(saved(rows.frame().iloc[:0], name))
    (tmp_path / "torn.parquet").write_bytes(saved(rows.frame()).read_bytes()[:-9])
    with pytest.raises(RowsError, match="cannot read rows from"):
        read_rows(tmp_path / "torn.parquet")
    (tmp_path / "torn.csv.gz").write_bytes(gzip.compress(b"batch,height\n" * 99)[:-12])
    with pytest.raises(RowsError, match="cannot read rows from"):
        read_rows(tmp_path / "torn.csv.gz")
    (tmp_path / "short.csv").write_text("batch,height\n1,2\n3\n")
    with pytest.raises(RowsError, match="Row #3"):
        read_rows(tmp_path / "short.csv")
    (tmp_path / "twice.csv").write_text("batch,height, batch\n1,2,3\n")
    with pytest.raises(RowsError, match="2 columns named 'batch'"):
        read_rows(tmp_path / "twice.csv")
    (tmp_path / "bytes.csv").write_bytes(b"batch,h\xff\n1,2\n")
    with pytest.raises(RowsError, match="cannot read rows from"):
        read_rows(tmp_path / "bytes.csv")
    for words in ({"latency": "maybe"}, {"on_bad": "ignore"}):
        with pytest.raises(InputError, match="needed or optional"):
            read_rows(saved(rows.frame()), **words)


def test_what_spreadsheets_write(rows, tmp_path):
    path = tmp_path / "sheet.csv"
    path.write_bytes(
        '\ufeff"batch", in_channels ,out_channels,height,kernel_size,latency_us\r\n'
        '\r\n1, 16,32,14.0,3,"1.5"\r\n'.encode()
    )
    found = read_rows(path)
    assert [s.text for s in found.columns] == ["1x16x14x14 ->32 k3 s1 p1 g1 conv fp32 nchw"]
    assert found.latency_us.tolist() == [1.5]


def test_latency_tables_are_told_apart(rows, saved, tmp_path, synthetic):
    path = tmp_path / "table.parquet"
    LatencyTable(synthetic.environment, synthetic.rows_of(synthetic.shape, [(16, 16)])).save(path)
    assert is_latency_table(path)
    with pytest.raises(RowsError, match="is a latency table, not a file of rows"):
        read_rows(path)
    for other in (saved(rows.frame()), saved(rows.frame(), "rows.csv"), tmp_path / "none", tmp_path):
        assert not is_latency_table(other)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_other_operators_of_an_export_are_left_out(tmp_path, synthetic, ending):
    op = OpShape.parse("op Add 1x64x56x56 1x64x56x56 fp32 nchw")
    rows = synthetic.rows_of(synthetic.shape, [(16, 16)])
    export(
        LatencyTable(synthetic.environment, rows, ops={op: synthetic.measurement(5)}), tmp_path / f"e{ending}"
    )
    found = read_rows(tmp_path / f"e{ending}")
    assert list(found.columns) == list(rows)
    assert found.place.tolist() == [0, -1]
    assert found.notes == ("1 row left out, of other operators by the column kind",)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables(), st.sampled_from([".csv", ".parquet"]))
def test_exports_of_tables_read_back(tmp_path_factory, table, ending):
    path = tmp_path_factory.mktemp("export") / f"rows{ending}"
    export(table, path)
    if not table.rows:
        with pytest.raises(RowsError):
            read_rows(path)
        return
    found = read_rows(path)
    assert list(found.columns) == sorted(table.rows)
    assert found.latency_us.tolist() == [table[shape].latency_us for shape in found.columns]
    assert found.low_us.tolist() == pytest.approx([table[shape].low_us for shape in found.columns])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(conv_shapes(), st.floats(1e-3, 1e6)),
        min_size=1,
        max_size=6,
    ),
    st.data(),
)
def test_rows_round_trip_and_merge_like_brute_force(tmp_path_factory, measured, data):
    measured = data.draw(st.permutations(measured + measured[:2]))
    names = [
        "batch",
        "in_channels",
        "height",
        "width",
        "out_channels",
        "kernel_size",
        "kernel_width",
        "stride",
        "stride_width",
        "padding",
        "padding_left",
        "padding_bottom",
        "padding_right",
        "dilation",
        "dilation_width",
        "groups",
        "pattern",
        "precision",
        "layout",
        "latency_us",
    ]
    lines = [
        (
            *(s.batch, s.in_channels, s.height, s.width, s.out_channels, *s.kernel, *s.stride, *s.padding),
            *(*s.dilation, s.groups, s.pattern, s.precision, s.layout, us),
        )
        for s, us in measured
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    pd.DataFrame(lines, columns=names).to_parquet(path)
    found = read_rows(path, agree=np.inf)
    groups: dict[ConvShape, list[float]] = {}
    for shape, us in measured:
        groups.setdefault(shape, []).append(us)
    assert list(found.columns) == list(groups)
    assert found.latency_us.tolist() == pytest.approx([np.median(group) for group in groups.values()])
    assert [list(groups)[place] for place in found.place] == [shape for shape, _ in measured]
