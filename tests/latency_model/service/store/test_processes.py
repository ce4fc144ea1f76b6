"""Several processes on one database, and processes that are killed on the way."""

import dataclasses
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import pytest
from sqlalchemy import func, select, text

from latency_model.service.store import rows, schema
from latency_model.service.store.backup import backup, restore
from latency_model.service.store.database import open_database
from latency_model.table import LatencyTable

PUT = """
import sys
from latency_model.service.store import rows
from latency_model.service.store.database import open_database
url, chunk, *paths = sys.argv[1:]
database = open_database(url)
print("ready", flush=True)
sys.stdin.readline()
for path in paths:
    rows.put_file(database, path, chunk=int(chunk), progress=lambda done, total: print(done, flush=True))
"""
ROWS = 300


def started(url, chunk, *paths):
    command = [sys.executable, "-c", PUT, url, str(chunk), *map(str, paths)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def table_of(synthetic, rng, places, day):
    """Return rows of some of many shapes; ``day`` and a random number decide which stays where several meet."""
    shapes = [synthetic.shape.with_channels(8 * (place + 1), 8) for place in places]
    measured = {
        shape: synthetic.measurement(rng.uniform(1, 9), at=f"2026-{rng.randint(1, 12):02}-{day:02}")
        for shape in shapes
    }
    failures = {synthetic.shape.with_channels(8, 8 * (place + 2)): f"day {day}" for place in places[:9]}
    return LatencyTable(synthetic.environment, measured, failures=failures)


def test_writers_of_overlapping_rows_lose_and_double_nothing(database, synthetic, tmp_path):
    rng = random.Random(1)
    tables = []
    # Every moment of measuring is of one table only, so that the outcome does not depend on who comes first.
    for number in range(4):
        tables.append(table_of(synthetic, rng, range(number * 50, number * 50 + ROWS), number + 1))
        tables[-1].save(tmp_path / f"{number}.parquet")
    processes = [
        started(database.engine.url.render_as_string(False), 7, tmp_path / f"{n}.parquet") for n in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.close()
    for process in processes:
        process.stdout.read()
        assert process.wait(120) == 0, process.stderr.read()
        process.stdout.close()
        process.stderr.close()
    expected = reduce(LatencyTable.merge, tables)
    [info] = rows.environments(database)
    found = rows.read(database, info.key)
    assert found.rows == expected.rows and found.failures.keys() == expected.failures.keys()
    assert (info.convs, info.failures) == (len(expected.rows), len(expected.failures))
    with database.read() as connection:
        stored = connection.execute(select(func.sum(schema.runs.c.rows))).scalar()
        changes = connection.execute(select(func.count()).select_from(schema.runs)).scalar()
    assert stored >= len(expected.rows) and changes == 4


@pytest.mark.parametrize("known", [False, True], ids=["new environment", "known environment"])
def test_a_second_writer_waits_for_the_first(database, synthetic, known):
    first, second = (table_of(synthetic, random.Random(4 + day), range(20), day) for day in (1, 2))
    if known:
        rows.put(database, LatencyTable(synthetic.environment), source="x")
    with ThreadPoolExecutor(1) as pool:
        with database.write() as connection:
            rows.put_rows(connection, first, source="first")
            waits = pool.submit(rows.put, database, second, source="second")
            with pytest.raises(TimeoutError):
                waits.result(0.5)
        report = waits.result(60)
    expected = first.merge(second)
    assert rows.read(database, synthetic.environment.key) == expected
    assert report.revision == 2 and len(rows.environments(database)) == 1
    assert report.new + report.replaced + report.older == len(second) + len(second.failures)


def test_a_put_that_is_killed_and_repeated_ends_equal(database, synthetic, tmp_path):
    rng = random.Random(2)
    table = table_of(synthetic, rng, range(ROWS), 1)
    table.save(tmp_path / "t.parquet")
    url = database.engine.url.render_as_string(False)
    seen = set()
    for attempt in range(6):
        process = started(url, 3, tmp_path / "t.parquet")
        process.stdin.write("\n")
        process.stdin.flush()
        acknowledged = 0
        stop = time.monotonic() + rng.uniform(0.005, 0.25)
        while time.monotonic() < stop and (line := process.stdout.readline()):
            acknowledged = int(line)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        found = rows.read(database, synthetic.environment.key)
        # What was acknowledged is there, and every row that is there is right.
        assert len(found) >= min(acknowledged, len(table))
        assert all(table[shape] == row for shape, row in found.items())
        info = rows.environment(database, synthetic.environment.key)
        assert info.convs == len(found) and info.failures == len(found.failures)
        seen.add(len(found))
        if attempt == 2:
            with database.write() as connection:
                connection.execute(schema.rows.delete())
                values = {"convs": 0, "failures": 0}
                connection.execute(schema.environments.update().values(**values))
    assert seen - {0, len(table)}, "none was killed in the middle"
    report = rows.put_file(database, tmp_path / "t.parquet", chunk=3)
    assert rows.read(database, synthetic.environment.key) == table
    assert report.new + report.identical == len(table) + len(table.failures)


def test_a_backup_beside_a_writer_is_of_one_moment(database, new_url, synthetic, tmp_path):
    table = table_of(synthetic, random.Random(3), range(ROWS), 1)
    table.save(tmp_path / "t.parquet")
    process = started(database.engine.url.render_as_string(False), 2, tmp_path / "t.parquet")
    process.stdin.write("\n")
    process.stdin.close()
    process.stdout.readline()
    names = ["b.zip", "b.db"] if database.is_sqlite else ["b.zip"]
    for name in names:
        backup(database, tmp_path / name)
    process.stdout.read()
    assert process.wait(60) == 0
    process.stdout.close()
    process.stderr.close()
    for name in names:
        again = open_database(new_url())
        restore(tmp_path / name, again)
        [info] = rows.environments(again)
        found = rows.read(again, info.key)
        assert (info.convs, info.failures) == (len(found), len(found.failures)) and len(found)
        assert all(table[shape] == row for shape, row in found.items())
        with again.read() as connection:
            stored = connection.execute(text("SELECT sum(rows) FROM runs")).scalar()
        assert stored == len(found) + len(found.failures)
        again.close()
    assert rows.read(database, synthetic.environment.key) == dataclasses.replace(table)
