"""Rows straight from the database, while what is mapped is being built."""

import pytest

from latency_model.service.catalog import Catalog
from latency_model.service.store.rows import put
from latency_model.table import LatencyTable


def test_a_row_is_that_of_the_environment_that_is_asked_for(database, synthetic, tmp_path):
    shape, other = synthetic.shape, synthetic.other_environment
    tables = [
        LatencyTable(environment, {shape: synthetic.measurement(latency)}, ())
        for environment, latency in ((synthetic.environment, 10.0), (other, 20.0))
    ]
    catalog = Catalog(database, tmp_path)
    put(database, tables[1], source="test")
    catalog.refresh()
    assert catalog.ask(catalog.of(other.key), shape)[0] == 20.0
    put(database, tables[0], source="test")
    catalog.refresh()
    for table, latency in zip(tables, (10.0, 20.0), strict=True):
        assert catalog.ask(catalog.of(table.environment.key), shape)[0] == latency
    wide = shape.with_channels(8, 8)
    assert catalog.ask(catalog.of(other.key), wide) is None
    put(database, LatencyTable(synthetic.environment, {wide: synthetic.measurement(5.0)}, ()), source="test")
    assert catalog.ask(catalog.of(other.key), wide) is None
    with pytest.raises(Exception, match="no environment"):
        catalog.of("nowhere")
