"""Rows and files that lack something: counted, named, or left out."""

import pytest

from latency_model.errors import RowsError
from latency_model.rows import read_rows

ENDINGS = ("rows.parquet", "rows.csv", "rows.csv.gz", "ROWS.CSV")


BAD = {
    "batch is empty": {"batch": None},
    "batch is zero or negative": {"batch": 0},
    "in_channels is no whole number": {"in_channels": 2.5},
    "in_channels is no number": {"in_channels": "many"},
    "out_channels is zero or negative": {"out_channels": -4},
    "out_channels is above 2147483647": {"out_channels": 1e30},
    "height is above 2147483647": {"height": float("inf")},
    "padding is negative": {"padding": -1},
    "groups do not divide in_channels": {"groups": 3},
    "groups do not divide out_channels": {"groups": 2, "out_channels": 5},
    "the kernel is larger than the padded height": {"kernel_size": 17},
    "the kernel is larger than the padded width": {"width": 2, "padding": 0},
    "precision is 'fp12', which is none of fp32, tf32, fp16, bf16, int8": {"precision": "fp12"},
    "latency_us is no number": {"latency_us": "quick"},
    "latency_us is empty or NaN": {"latency_us": float("nan")},
    "latency_us is infinite": {"latency_us": float("inf")},
    "latency_us is zero or negative": {"latency_us": 0.0},
    "latency_us is zero or negative ": {"latency_us": -3.0},
}


@pytest.mark.parametrize("name", ENDINGS[:2])
@pytest.mark.parametrize("what", BAD)
def test_bad_rows_are_counted_and_named_or_left_out(rows, saved, what, name):
    if name.endswith(".parquet") and any(
        isinstance(v, str) and k != "precision" for k, v in BAD[what].items()
    ):
        data = rows.frame({}, BAD[what], {"batch": 2}, width=14).astype(str)
    else:
        data = rows.frame({}, BAD[what], {"batch": 2}, width=14)
    path = saved(data, name)
    with pytest.raises(RowsError) as raised:
        read_rows(path)
    message = str(raised.value)
    assert f"in 1 row {what.strip()} (row 2)" in message
    assert str(path) in message
    assert "--on-bad drop" in message
    found = read_rows(path, on_bad="drop")
    assert found.place.tolist() == [0, -1, 1]
    assert f"left out: in 1 row {what.strip()} (row 2)" in found.notes
    if "latency" in what:
        asked = read_rows(path, latency="optional")
        assert asked.file_rows == 3
        assert (asked.place >= 0).all()
        assert f"no latency to compare with: in 1 row {what.strip()} (row 2)" in asked.notes
    else:
        with pytest.raises(RowsError):
            read_rows(path, latency="optional")


def test_many_bad_rows_are_counted_and_the_first_shown(rows, saved):
    changes = [
        {"batch": n, "latency_us": -1.0 if n % 2 else 1.0, "groups": 1 + n // 15} for n in range(1, 21)
    ]
    with pytest.raises(RowsError) as raised:
        read_rows(saved(rows.frame(*changes, in_channels=15, out_channels=15)))
    assert "in 6 rows groups do not divide in_channels (rows 15, 16, 17, 18, 19 and 1 more)" in str(
        raised.value
    )
    assert "in 7 rows latency_us is zero or negative (rows 1, 3, 5, 7, 9 and 2 more)" in str(raised.value)


def test_of_more_than_three_causes_the_rest_is_counted(rows, saved):
    causes = [{"batch": 0}, {"in_channels": 0}, {"out_channels": 0}, {"height": 0}, {"groups": 5}]
    with pytest.raises(
        RowsError, match=r"out_channels is zero or negative \(row 3\), and 2 rows with other faults"
    ):
        read_rows(saved(rows.frame(*causes)))


def test_nothing_left_is_an_error(rows, saved):
    with pytest.raises(RowsError, match="no row left of 1"):
        read_rows(saved(rows.frame(latency_us=-1.0)), on_bad="drop")


@pytest.mark.parametrize("name", ENDINGS[:3])
def test_missing_columns(rows, saved, name):
    with pytest.raises(
        RowsError, match="no columns out_channels, height, only batch, in_channels, kernel_size"
    ):
        read_rows(saved(rows.frame(drop=("out_channels", "height")), name))
    with pytest.raises(RowsError, match="no column latency_us or latency_ms, only batch"):
        read_rows(saved(rows.frame(drop=["latency_us"]), name))
    path = saved(rows.frame().rename(columns={"latency_us": "latency"}), name)
    with pytest.raises(RowsError, match="a column latency, of an unknown unit; name it"):
        read_rows(path)
    assert read_rows(path, latency="optional").latency_us is None
