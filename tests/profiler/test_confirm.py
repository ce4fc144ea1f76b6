"""A back end that asks for several passes: rows of readings that agree."""

import dataclasses
import json

import pytest

from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from profiler.backends.fake import FakeDevice
from profiler.journal import Contents, Journal, journal_path
from profiler.rows import row_to_json
from profiler.runner import profile

SHAPES = [ConvShape(1, 8 * i, 16, 16, 8 * j) for i in range(1, 6) for j in range(1, 6)]
TROUBLED = SHAPES[7]


class Disturbed(FakeDevice):
    """The fake device asked for two passes, on which the readings of one configuration are slowed down."""

    passes = 2

    def __init__(self, factors=(), **options):
        super().__init__(**options)
        self.factors, self.seen = factors, []

    def measure(self, config, *, run_id):
        row = super().measure(config, run_id=run_id)
        number = self.seen.count(config)
        self.seen.append(config)
        row = dataclasses.replace(row, measured_at=f"{number:04d}")
        if config != TROUBLED or number >= len(self.factors):
            return row
        factor = self.factors[number]
        return dataclasses.replace(
            row,
            latency_us=row.latency_us * factor,
            low_us=row.low_us * factor,
            high_us=row.high_us * factor,
        )


def rows(tmp_path, backend, **options):
    return profile(backend, SHAPES, out=tmp_path / "t.parquet", **options)


def test_every_row_is_read_twice_and_all_once_before_any_twice(tmp_path):
    backend = Disturbed()
    rows(tmp_path, backend)
    # The sentinel is read twice more, at the end.
    assert sorted(backend.seen.count(shape) for shape in SHAPES) == [2] * (len(SHAPES) - 1) + [4]
    assert sorted(backend.seen[: len(SHAPES)]) == sorted(SHAPES)


@pytest.mark.parametrize(
    ("factors", "readings"), [((1.4,), 3), ((1.0, 1.4), 3), ((1.4, 1.2), 4), ((1.4, 1.2, 1.0), 4)]
)
def test_a_slow_reading_is_outvoted(tmp_path, factors, readings):
    backend = Disturbed(factors)
    table = rows(tmp_path, backend)
    assert backend.seen.count(TROUBLED) == readings
    calm = Disturbed().measure(TROUBLED, run_id="")
    assert table[TROUBLED].latency_us == calm.latency_us
    assert "unstable" not in table[TROUBLED].flags
    assert f"of {readings} readings agree" in table[TROUBLED].note


def test_what_never_agrees_is_unstable(tmp_path):
    backend = Disturbed((2.0, 1.7, 1.4, 1.2))
    row = rows(tmp_path, backend)[TROUBLED]
    assert backend.seen.count(TROUBLED) == 4
    assert "unstable" in row.flags
    assert row.high_us >= 1.1 * row.latency_us


def test_readings_survive_a_kill(tmp_path):
    class KilledError(Exception):
        pass

    out = tmp_path / "t.parquet"
    first = Disturbed((1.4,))
    seen = []

    def interrupt(done, total, what):
        seen.append(what)
        if len(seen) > len(SHAPES) + 5:
            raise KilledError

    with pytest.raises(KilledError):
        rows(tmp_path, first, progress=interrupt)
    # As if the process had died instead of writing the table: the journal alone must do.
    environment, contents = first.environment, LatencyTable.load(out)
    assert len(contents) == len(SHAPES)
    out.unlink()
    with Journal(journal_path(out), environment) as journal:
        for shape, row in contents.items():
            journal.add_row(shape, row)
        journal.add_rows([(SHAPES[0], Disturbed().measure(SHAPES[0], run_id=""))], again=True)
    with Journal(journal_path(out), environment) as journal:
        assert len(journal.contents.readings[SHAPES[0]]) == 2
        journal.reread()
        assert len(journal.contents.readings[SHAPES[0]]) == 2
    second = Disturbed()
    table = rows(tmp_path, second)
    assert second.seen.count(SHAPES[0]) == 0
    assert all(second.seen.count(shape) >= 1 for shape in SHAPES[1:])
    assert len(table) == len(SHAPES)
    assert not journal_path(out).exists()


def test_a_further_reading_is_marked_in_the_journal(tmp_path):
    out = tmp_path / "t.parquet"
    backend = FakeDevice()
    with Journal(journal_path(out), backend.environment) as journal:
        row = backend.measure(TROUBLED, run_id="")
        journal.add_row(TROUBLED, row)
        journal.add_rows([(TROUBLED, dataclasses.replace(row, measured_at="later"))], again=True)
    lines = [json.loads(line) for line in journal_path(out).read_text().splitlines()]
    assert [line.get("again") for line in lines[1:]] == [None, True]


def test_the_progress_begins_anew_with_each_pass(tmp_path):
    steps = []
    rows(tmp_path, Disturbed((1.4,)), progress=lambda *step: steps.append(step))
    starts = [(done, total) for done, total, what in steps if not what]
    assert starts == [(0, len(SHAPES)), (0, len(SHAPES)), (0, 1)]


def test_the_same_line_twice_does_not_confirm_itself():
    backend = FakeDevice()
    contents = Contents(backend.environment)
    row = row_to_json(backend.measure(TROUBLED, run_id=""))
    contents.apply({"kind": "conv", "config": TROUBLED.text, "row": row})
    contents.apply({"kind": "conv", "config": TROUBLED.text, "row": row, "again": True})
    assert len(contents.readings[TROUBLED]) == 1
