"""A table with one of everything."""

import dataclasses

import pytest

from latency_model.measurement import Candidate, NetworkRow
from latency_model.ops import OpShape
from latency_model.table import LatencyTable


@pytest.fixture
def mixed(synthetic):
    """Return a table with convolutions, operators, networks and failures."""
    shape, row = synthetic.shape, synthetic.measurement(10.0)
    full = dataclasses.replace(
        row,
        kernels=(("gemm", 0.9), ("bias, relu", 0.1)),
        candidates=(Candidate("gemm", 10.0, 4), Candidate("winograd", 11.0, 1)),
        cold_us=12.5,
        error=1e-7,
        note='by "far" µ \0',
        flags=("unstable",),
        run_id="r1",
    )
    add = OpShape("Add", ((1, 16, 8, 8), (1, 16, 8, 8)))
    # A concatenation of hundreds: longer than PostgreSQL can index.
    concat = OpShape("Concat", tuple((1, 8 + i, 7, 7) for i in range(400)), attributes=(("axis", "1"),))
    rows = {shape.with_channels(c, c): row for c in (8, 24, 16)} | {shape: full}
    networks = tuple(NetworkRow(name, (shape, add, concat), row) for name in ("z", "a", "m\0ü"))
    failures = {shape.with_channels(512, 512): "out of memory\0", dataclasses.replace(concat, op="Sum"): "no"}
    return LatencyTable(synthetic.environment, rows, networks, failures, {add: row, concat: full})
