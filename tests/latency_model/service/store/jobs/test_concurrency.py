"""Real processes at one database: each job has one holder at a time, and one row a configuration in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from job_things import OFFERS, WIDE
from sqlalchemy import func, select

from latency_model.service.store import jobs as queue
from latency_model.service.store import schema
from latency_model.service.store.database import open_database

ROOT = Path(__file__).parents[5]
JOBS, PROCESSES = 40, 3

# Leases until there is nothing, posts, completes; says which leases it had. Some it drops, as if it had died.
WORKER = """
import json, random, sys, time
from job_things import OFFERS, table
from latency_model.service.store import jobs as queue
from latency_model.service.store.database import open_database
url, name = sys.argv[1:]
rng, had, dropped = random.Random(name), [], []
database = open_database(url)
idle = 0
while idle < 20:
    lease = queue.lease_job(database, OFFERS["wide"], worker=name, now=time.time(), lease_s=0.7)
    if lease is None:
        idle += 1
        time.sleep(0.05)
        continue
    idle = 0
    if rng.random() < 0.2:
        dropped.append(lease.job_id)
        continue
    rows = table(OFFERS["wide"].environment, lease.configs)
    try:
        queue.post_rows(database, lease.lease, rows, now=time.time(), lease_s=0.7)
        queue.complete(database, lease.lease, now=time.time())
        had.append(lease.job_id)
    except queue.LeaseLostError:
        dropped.append(lease.job_id)
print(json.dumps([had, dropped]))
"""

SUBMITTER = """
import json, sys, time
from latency_model.service.store import jobs as queue
from latency_model.service.store.database import open_database
url, start = sys.argv[1:]
database = open_database(url)
request = queue.configs_request(["1x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"], queue.Wants())
while time.time() < float(start):
    pass
made = [
    queue.submit(database, request, now=time.time(), idempotency_key=str(n))
    for n in range(10)
]
print(json.dumps([(job.id, new) for job, new in made]))
"""


def start(code, *arguments):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )


def results(processes):
    found = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return list(map(json.loads, found))


def test_each_job_is_completed_by_exactly_one_of_many_processes(new_url):
    url = new_url()
    database = open_database(url)
    database.migrate()
    configs = [
        [f"1x{8 * n}x8x8 ->{8 * m} k3 s1 p1 g1 conv fp32 nchw" for m in range(1, 4)]
        for n in range(1, JOBS + 1)
    ]
    made = [
        queue.submit(database, queue.configs_request(texts, queue.Wants(), max_attempts=50), now=time.time())[
            0
        ].id
        for texts in configs
    ]
    told = results([start(WORKER, url, f"w{n}") for n in range(PROCESSES)])
    completed = [job for had, _ in told for job in had]
    assert sorted(completed) == sorted(made)
    assert queue.count_jobs(database) == {"queued": 0, "leased": 0, "done": JOBS, "failed": 0, "cancelled": 0}
    # Not for nothing: leases were dropped and taken over.
    assert any(dropped for _, dropped in told)
    with database.read() as connection:
        assert connection.scalar(select(func.count()).select_from(schema.rows)) == 3 * JOBS
    database.close()


def test_two_leases_at_once_are_never_of_one_job(new_url):
    """Nobody posts or ends a lease: however many ask at once, no job is given twice."""
    url = new_url()
    database = open_database(url)
    database.migrate()
    request = queue.configs_request(["1x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"], queue.Wants())
    for _ in range(JOBS):
        queue.submit(database, request, now=0.0)
    code = (
        "import json, sys\n"
        "from job_things import OFFERS\n"
        "from latency_model.service.store import jobs as queue\n"
        "from latency_model.service.store.database import open_database\n"
        "database = open_database(sys.argv[1])\n"
        "def ask(): return queue.lease_job(database, OFFERS['wide'], worker='w', now=1.0, lease_s=1e6)\n"
        "print(json.dumps([lease.job_id for lease in iter(ask, None)]))\n"
    )
    given = [job for jobs in results([start(code, url) for _ in range(PROCESSES)]) for job in jobs]
    assert len(given) == len(set(given)) == JOBS
    assert queue.lease_job(database, OFFERS["wide"], worker="w", now=1.0, lease_s=1.0) is None
    assert OFFERS["wide"].environment == WIDE
    database.close()


def test_an_idempotency_key_is_used_once_by_processes_that_come_at_once(new_url):
    url = new_url()
    database = open_database(url)
    database.migrate()
    told = results([start(SUBMITTER, url, time.time() + 3.0) for _ in range(3)])
    assert len({job for made in told for job, _ in made}) == 10
    assert sum(new for made in told for _, new in made) == 10
    assert queue.count_jobs(database)["queued"] == 10
    database.close()
