import json
from unittest.mock import Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_model import ConvShape, NetworkRow
from latency_model.errors import InputError, TableError
from profiler.backends.fake import FakeDevice
from profiler.journal import Journal, journal_path

DEVICE = FakeDevice()
ENVIRONMENT = DEVICE.environment
SHAPES = [ConvShape(1, 8, 8, 8, count) for count in (8, 16, 24)]


def row(shape):
    return DEVICE.measure(shape, run_id="r")


@pytest.fixture
def path(tmp_path):
    return journal_path(tmp_path / "table.parquet")


def fill(path):
    with Journal(path, ENVIRONMENT) as journal:
        for shape in SHAPES[:2]:
            journal.add_row(shape, row(shape))
        journal.add_failure(SHAPES[2], "told to")
        journal.add_network(NetworkRow("net", tuple(SHAPES), row(SHAPES[0])))
        return journal.contents.table()


def test_what_is_written_is_read_back(path):
    table = fill(path)
    with Journal(path, ENVIRONMENT) as journal:
        assert journal.contents.table() == table
    assert list(table) == SHAPES[:2]
    assert table.failures == {SHAPES[2]: "told to"}
    assert table.networks[0].shapes == tuple(SHAPES)
    assert path.name == "table.parquet.journal"


def test_a_file_cut_anywhere_keeps_every_whole_line(path):
    fill(path)
    whole = path.read_bytes()
    ends = {end for end in range(len(whole) + 1) if end % 29 == 0 or b"\n" in whole[end - 2 : end + 2]}
    for end in sorted(ends | {1, len(whole)}):
        path.write_bytes(whole[:end])
        with Journal(path, ENVIRONMENT) as journal:
            contents = journal.contents
        lines = max(whole[:end].count(b"\n") - 1, 0)  # the header is one
        assert len(contents.rows) + len(contents.failures) + len(contents.networks) == lines
        kept = path.read_bytes()
        assert kept.endswith(b"\n")
        assert end < whole.index(b"\n") + 1 or kept == whole[: whole.rindex(b"\n", 0, end) + 1]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60).filter(lambda tail: b"\n" not in tail))
def test_any_torn_tail_is_cut_off(path, tail):
    path.unlink(missing_ok=True)
    table = fill(path)
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    with Journal(path, ENVIRONMENT) as journal:
        assert journal.contents.table() == table
        journal.add_row(SHAPES[2], row(SHAPES[2]))
    assert path.read_bytes().startswith(whole + b'{"kind":"conv"')


def test_damage_before_the_end_is_an_error_and_changes_nothing(path):
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], b"{half\n", *lines[1:]])
    path.write_bytes(damaged)
    with pytest.raises(TableError, match="damaged"):
        Journal(path, ENVIRONMENT)
    assert path.read_bytes() == damaged
    path.write_bytes(lines[0] + b'{"kind":"conv","config":"nonsense","row":{}}\n')
    with pytest.raises(TableError, match="damaged"):
        Journal(path, ENVIRONMENT)


def test_a_journal_of_another_environment_is_refused_with_the_difference(path):
    fill(path)
    with pytest.raises(TableError, match=r"another environment .*seed"):
        Journal(path, FakeDevice(seed=7).environment)


def test_other_files_and_later_versions_are_refused(path):
    path.write_text('{"kind": "other"}\n')
    with pytest.raises(TableError, match="not a profiling journal"):
        Journal(path, ENVIRONMENT)
    header = {"kind": "header", "version": 99, "environment": ENVIRONMENT.to_json()}
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(TableError, match="later version"):
        Journal(path, ENVIRONMENT)


def test_one_run_at_a_time(path):
    with Journal(path, ENVIRONMENT), pytest.raises(TableError, match="in use"):
        Journal(path, ENVIRONMENT)
    with Journal(path, ENVIRONMENT):
        pass


def test_drift_flags_the_rows_since_the_last_sentinel(path):
    with Journal(path, ENVIRONMENT) as journal:
        for shape, drift in zip(SHAPES, (False, True, False), strict=True):
            journal.add_row(shape, row(shape))
            journal.add_sentinel(SHAPES[0], 1.0, drift=drift)
        first = journal.contents.table()
    assert [first[shape].flags for shape in SHAPES] == [(), ("drift",), ()]
    with Journal(path, ENVIRONMENT) as journal:
        assert journal.contents.table() == first
        assert journal.contents.sentinels == {"": (SHAPES[0], 1.0)}
        assert not journal.contents.open_segments


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose another"):
        Journal(tmp_path / "file" / "table.journal", ENVIRONMENT)


def test_a_full_disk_is_one_sentence(path, monkeypatch):
    with Journal(path, ENVIRONMENT) as journal:
        monkeypatch.setattr("profiler.journal.os.fsync", Mock(side_effect=OSError(28, "No space")))
        with pytest.raises(InputError, match="make room"):
            journal.add_row(SHAPES[0], row(SHAPES[0]))


def test_a_journal_of_version_1_is_read_and_from_then_on_refused_by_older_readers(path):
    fill(path)
    lines = [json.loads(raw) for raw in path.read_bytes().splitlines()]
    lines[0]["version"] = 1
    lines.insert(2, {"kind": "sentinel", "config": SHAPES[0].text, "latency_us": 2.0, "drift": True})
    for line in lines:
        line.pop("worker", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Journal(path, ENVIRONMENT) as journal:
        assert list(journal.contents.rows) == SHAPES[:2]
        assert journal.contents.rows[SHAPES[0]].flags == ("drift",)
        assert journal.contents.sentinels == {"": (SHAPES[0], 2.0)}
        assert journal.contents.failures == {SHAPES[2]: "told to"}
        table = journal.contents.table()
    again = path.read_bytes()
    assert json.loads(again.splitlines()[-1])["version"] == 2
    with Journal(path, ENVIRONMENT) as journal:
        assert journal.contents.table() == table
    assert path.read_bytes() == again


def test_a_sentinel_speaks_for_its_own_worker_only(path):
    with Journal(path, ENVIRONMENT) as journal:
        journal.add_rows([(SHAPES[0], row(SHAPES[0])), (SHAPES[1], row(SHAPES[1]))], worker="a")
        journal.add_row(SHAPES[2], row(SHAPES[2]), worker="b")
        journal.add_sentinel(SHAPES[0], 1.0, drift=True, worker="a")
        first = journal.contents.table()
        assert journal.contents.open_segments == {"b": [SHAPES[2]]}
    assert [first[shape].flags for shape in SHAPES] == [("drift",), ("drift",), ()]
    with Journal(path, ENVIRONMENT) as journal:
        assert journal.contents.table() == first
        assert journal.contents.sentinels == {"a": (SHAPES[0], 1.0)}


def test_rows_that_come_together_wait_for_the_disk_once(path, monkeypatch):
    with Journal(path, ENVIRONMENT) as journal:
        waits = Mock()
        monkeypatch.setattr("profiler.journal.os.fsync", waits)
        journal.add_rows([(shape, row(shape)) for shape in SHAPES])
        assert waits.call_count == 1


def test_damage_is_said_with_the_command_that_keeps_what_is_before_it(path):
    fill(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0\0\0\n", *lines[2:]]))
    size = len(lines[0]) + len(lines[1])
    with pytest.raises(TableError, match=f"truncate -s {size} "):
        Journal(path, ENVIRONMENT)
    with path.open("r+b") as stream:
        stream.truncate(size)
    with Journal(path, ENVIRONMENT) as journal:
        assert list(journal.contents.rows) == SHAPES[:1]


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_interrupt_at_the_disk_leaves_the_contents_of_the_file(path, monkeypatch, when):
    """Before the wait for the disk or right after it: what the file has counts."""
    with Journal(path, ENVIRONMENT) as journal:
        journal.add_row(SHAPES[0], row(SHAPES[0]))
        if when == "before":
            monkeypatch.setattr("profiler.journal.os.fsync", Mock(side_effect=KeyboardInterrupt))
        else:
            monkeypatch.setattr(type(journal.contents), "add_row", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            journal.add_row(SHAPES[1], row(SHAPES[1]))
        monkeypatch.undo()
        assert list(journal.reread().rows) == SHAPES[:2]
        assert list(journal.contents.open_segments[""]) == SHAPES[:2]
