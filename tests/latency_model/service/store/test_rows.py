"""Tables into the database and out of it: what comes out is what LatencyTable.merge makes."""

import dataclasses

from latency_model.service.store import rows
from latency_model.shipped import shipped_tables
from latency_model.table import LatencyTable


def test_a_shipped_table_comes_back_equal(database, tmp_path):
    for path in shipped_tables():
        table = LatencyTable.load(path)
        report = rows.put_file(database, path)
        key = table.environment.key
        assert report.new == len(table) + len(table.ops) + len(table.networks) + len(table.failures)
        assert rows.read(database, key) == table
        assert list(rows.read(database, key).networks) == list(table.networks)
        rows.save_table(database, key, tmp_path / "again.parquet")
        assert LatencyTable.load(tmp_path / "again.parquet") == table
        again = rows.put(database, table, source="test")
        assert dataclasses.replace(again, identical=0) == rows.PutReport(key, report.revision)
        assert again.identical == report.new
