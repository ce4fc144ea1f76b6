"""Tables into the database and out of it: what comes out is what LatencyTable.merge makes."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from strategies import conv_shapes, environments, measurements

from latency_model.errors import InputError, TableError
from latency_model.measurement import Candidate, NetworkRow
from latency_model.ops import OpShape
from latency_model.service.store import rows, schema
from latency_model.service.store.errors import StoreError, UnknownEnvironmentError
from latency_model.shipped import shipped_tables
from latency_model.table import LatencyTable

quick = settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Few shapes, so that tables meet; texts with what databases stumble over.
odd = st.text(st.characters(blacklist_categories=("Cs",)), max_size=6) | st.sampled_from(
    ["\0", "it's", "\\N", "\t"]
)
ops = st.builds(
    OpShape,
    st.sampled_from(["Add", "Concat"]),
    st.lists(st.tuples(*[st.integers(1, 999)] * 4), min_size=1, max_size=3).map(tuple),
    attributes=st.dictionaries(st.sampled_from(["axis", "mode"]), st.sampled_from(["1", "-1,0"])).map(
        lambda found: tuple(found.items())
    ),
)
real = st.none() | st.floats(allow_nan=False)
rows_of = st.builds(
    dataclasses.replace,
    measurements(),
    measured_at=st.sampled_from(["", "2026-01-01", "2026-01-02", "ä", "Z", "a"]),
    run_id=odd,
    note=odd,
    cold_us=real,
    error=real,
    candidates=st.lists(
        st.builds(Candidate, odd, st.floats(0, 9), st.integers(0, 2**31 - 1)), max_size=2
    ).map(tuple),
)


@st.composite
def tables_of(draw, environment):
    """Return a function that draws tables of one environment whose rows meet."""
    shapes = draw(st.lists(conv_shapes(), min_size=1, max_size=4, unique=True))
    others = draw(st.lists(ops, min_size=1, max_size=2, unique=True))
    configs = st.sampled_from([*shapes, *others])
    lists = [draw(st.lists(configs, max_size=3).map(tuple)) for _ in range(2)]

    def draw_one():
        return LatencyTable(
            environment,
            draw(st.dictionaries(st.sampled_from(shapes), rows_of, max_size=4)),
            tuple(draw(st.lists(st.builds(NetworkRow, odd, st.sampled_from(lists), rows_of), max_size=3))),
            draw(st.dictionaries(configs, odd, max_size=3)),
            draw(st.dictionaries(st.sampled_from(others), rows_of, max_size=2)),
        )

    return draw_one


def counted(database, key):
    """Return the counts of an environment by counting, beside those that it keeps."""
    info = rows.environment(database, key)
    with database.read() as connection:
        query = select(schema.rows.c.kind, func.count()).where(schema.rows.c.environment_id == info.id)
        found = Counter({kind: count for kind, count in connection.execute(query.group_by(schema.rows.c.kind))})
    kept = {"conv": info.convs, "op": info.ops, "network": info.networks, "failure": info.failures}
    return {kind: found[kind] for kind in kept}, kept


@quick
@given(data=st.data(), environment=environments)
def test_puts_are_merges(database, tmp_path, data, environment):
    draw = data.draw(tables_of(environment))
    empty_database(database)
    expected = LatencyTable(environment)
    for number in range(data.draw(st.integers(1, 3))):
        table = draw()
        if data.draw(st.booleans()):
            report = rows.put(database, table, source=f"put {number}", chunk=data.draw(st.integers(1, 5)))
        else:
            table.save(tmp_path / "t.parquet")
            report = rows.put_file(database, tmp_path / "t.parquet", chunk=data.draw(st.integers(1, 5)))
        before, expected = expected, expected.merge(table)
        assert (before != expected) <= report.changed
    key = environment.key
    found = rows.read(database, key)
    assert found == expected and list(found.networks) == list(expected.networks)
    assert rows.put(database, expected, source="again").changed is False
    real, kept = counted(database, key)
    assert real == kept
    rows.save_table(database, key, tmp_path / "t.parquet", chunk=2)
    assert LatencyTable.load(tmp_path / "t.parquet") == expected
    assert dict(rows.stream(database, key, chunk=2)) == {**expected.rows, **expected.ops}
    with rows.latencies(database, key, chunk=2) as (info, parts):
        assert info == rows.environment(database, key)
        quick = {text: us for part in parts for text, us in zip(part.configs, part.latency_us, strict=True)}
    assert quick == {c.text: row.latency_us for c, row in {**expected.rows, **expected.ops}.items()}


def empty_database(database):
    with database.write() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())


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
        assert again == rows.PutReport(key, report.revision, identical=report.new)


def test_one_of_everything_comes_back(database, mixed, tmp_path):
    report = rows.put(database, mixed, source="test", chunk=2)
    assert rows.read(database, mixed.environment.key) == mixed
    assert report.new == 10 and report.revision == 5
    texts = [config.text for config, _ in rows.stream(database, mixed.environment.key, kinds=["conv"])]
    assert texts == sorted(texts)
    with rows.latencies(database, mixed.environment.key) as (_, parts):
        assert {text for part in parts for text in part.configs} == {
            c.text for c in (*mixed.rows, *mixed.ops)
        }


def test_what_becomes_of_each_row(database, synthetic):
    shape, environment = synthetic.shape, synthetic.environment
    old, new = (synthetic.measurement(us, at=at) for us, at in ((1.0, "2026-01-01"), (2.0, "2026-02-01")))

    def put(row=None, **more):
        given = {shape: row} if row else {}
        report = rows.put(database, LatencyTable(environment, given, **more), source="x")
        return {k: v for k, v in report.to_json().items() if k != "key" and v}

    assert put(failures={shape: "no"}) == {"revision": 1, "new": 1}
    assert put(failures={shape: "no"}) == {"revision": 1, "identical": 1}
    assert put(failures={shape: "out of memory"}) == {"revision": 2, "replaced": 1}
    assert put(old) == {"revision": 3, "new": 1, "ended": 1}
    assert put(failures={shape: "no"}) == {"revision": 3, "older": 1}
    assert put(new) == {"revision": 4, "replaced": 1}
    assert put(old) == {"revision": 4, "older": 1}
    assert put(new) == {"revision": 4, "identical": 1}
    # Equally late: the one that comes last, as in a merge.
    assert put(dataclasses.replace(new, note="again")) == {"revision": 5, "replaced": 1}
    # An integer is the same latency as a float.
    numbers = dict.fromkeys(("latency_us", "low_us", "high_us"), 3)
    assert put(dataclasses.replace(new, **numbers)) == {"revision": 6, "replaced": 1}
    assert put(dataclasses.replace(new, **{k: float(v) for k, v in numbers.items()})) == {
        "revision": 6,
        "identical": 1,
    }


def test_an_empty_table_makes_its_environment(database, synthetic):
    report = rows.put(database, LatencyTable(synthetic.environment), source="x")
    assert report == rows.PutReport(synthetic.environment.key, 0)
    assert [info.environment for info in rows.environments(database)] == [synthetic.environment]
    assert rows.read(database, synthetic.environment.key) == LatencyTable(synthetic.environment)


def test_unknown_environments(database):
    for ask in (rows.read, rows.environment, rows.snapshot, lambda *of: list(rows.stream(*of))):
        with pytest.raises(UnknownEnvironmentError, match="no environment 'nothing'"):
            ask(database, "nothing")


def test_a_run_is_noted_once_with_its_rows(database, mixed, synthetic):
    rows.put(database, mixed, source="worker\0 7", run_id="r1", chunk=3)
    rows.put(database, mixed, source="worker 7", run_id="r1", chunk=3)
    rows.put(database, mixed, source="nothing new", run_id="r2")
    with database.read() as connection:
        [run] = connection.execute(select(schema.runs)).all()
    assert (run.id, run.source, run.rows) == ("r1", "worker 7", 10)
    elsewhere = dataclasses.replace(mixed, environment=synthetic.other_environment)
    for bad in ("r1", "", "x" * 65):
        with pytest.raises(InputError, match="run"):
            rows.put(database, elsewhere, source="x", run_id=bad)
    assert [info.key for info in rows.environments(database)] == [mixed.environment.key]


def test_rows_of_a_transaction_that_is_rolled_back_are_gone(database, mixed):
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        rows.put_rows(connection, mixed, source="x")
        raise ZeroDivisionError
    assert rows.environments(database) == []
    with database.write() as connection:
        assert rows.put_rows(connection, mixed, source="x").new == 10
    assert rows.read(database, mixed.environment.key) == mixed


def test_readers_see_one_moment(database, mixed):
    rows.put(database, mixed, source="x")
    shape = min(mixed)
    later = {shape: dataclasses.replace(mixed[shape], latency_us=10.05, measured_at="2027")}
    with rows.latencies(database, mixed.environment.key, chunk=1) as (info, parts):
        first = next(parts)
        rows.put(database, LatencyTable(mixed.environment, later), source="y")
        seen = [first, *parts]
    assert info.revision == 1 and all(10.05 not in part.latency_us for part in seen)
    assert rows.snapshot(database, mixed.environment.key)[0].revision == 2


def test_texts_that_are_no_unicode(database, mixed, synthetic):
    bad = {synthetic.shape: dataclasses.replace(mixed[synthetic.shape], note="\ud800")}
    with pytest.raises(InputError, match="not valid Unicode"):
        rows.put(database, LatencyTable(mixed.environment, bad), source="x")


def test_files_that_are_damaged(database, mixed, tmp_path):
    mixed.save(tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "half.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "changed.parquet").write_bytes(data[:50] + bytes(200) + data[250:])
    for name in ("half", "changed", "missing"):
        with pytest.raises(TableError):
            rows.put_file(database, tmp_path / f"{name}.parquet")


def test_two_environments_of_one_key_are_not_mixed(database, mixed, synthetic):
    rows.put(database, mixed, source="x")
    with database.write() as connection:
        other = '{"device": "forged", "kind": "cpu", "runtime": "x", "runtime_version": ""}'
        connection.execute(schema.environments.update().values(environment=other))
    with pytest.raises(StoreError, match="two environments have the key"):
        rows.put(database, mixed, source="x")
