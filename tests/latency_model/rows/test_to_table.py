import pytest

from latency_model import Environment, LatencyTable
from latency_model.errors import RowsError
from latency_model.rows import read_rows, to_table


def test_the_probe_becomes_a_table(rows, saved, tmp_path):
    table = to_table(read_rows(saved(rows.probe())))
    assert table.environment == Environment("unknown device", "unknown", "unknown", "")
    first, second = table.values()
    assert (first.latency_us, first.low_us, first.high_us) == pytest.approx((14.1, 13.95, 14.25))
    assert (first.p5_us, first.p95_us, first.min_us) == (13.8, 14.6, 13.8)
    assert (second.latency_us, second.low_us, second.high_us) == (9.0, 8.9, 9.5)
    assert (first.method, first.samples, first.boundary_us) == ("given", 1, 3.75)
    assert [name[:9] for name, _ in first.kernels] == ["sm80_xmma", "void nhwc"]
    assert sum(share for _, share in first.kernels) == 1
    table.save(tmp_path / "table.parquet")
    assert LatencyTable.load(tmp_path / "table.parquet") == table


def test_rows_without_a_spread(rows, saved):
    found = read_rows(saved(rows.frame(device="Tesla T4")))
    (row,) = to_table(found).values()
    assert {row.low_us, row.high_us, row.p5_us, row.p95_us, row.latency_us} == {10.0}
    assert (row.kernels, row.boundary_us) == ((), None)
    assert to_table(found).environment.device == "Tesla T4"
    environment = Environment("GPU", "cuda", "onnxruntime", "1.32")
    assert to_table(found, environment=environment).environment == environment


def test_a_table_needs_latencies(rows, saved):
    for data in (rows.frame(drop=["latency_us"]), rows.frame({}, {"batch": 2, "latency_us": None})):
        with pytest.raises(RowsError, match="convolutions without a latency"):
            to_table(read_rows(saved(data), latency="optional"))
