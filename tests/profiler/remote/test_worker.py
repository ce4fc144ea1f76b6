"""A worker with the fake device, from the lease to the row, over a real connection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from live_service import free_port, live_service

from latency_model.errors import GharialError, InputError
from latency_model.ops import parse_config
from latency_model.service.store.rows import read
from profiler.backends.fake import FakeDevice
from profiler.journal import Journal, journal_path
from profiler.remote import RemoteWorker, Server
from profiler.remote.outbox import Outbox
from profiler.spec import BackendSpec
from profiler.testing import small_network

ROOT = Path(__file__).parents[3]
KEY = FakeDevice().environment.key
CONVS = [f"1x8x8x8 ->{8 * n} k3 s1 p1 g1 conv fp32 nchw" for n in range(1, 41)]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with live_service(tmp_path_factory.mktemp("service"), lease_s=2.0, token_cache_s=0.0) as live:
        yield live


OPENED = []


@pytest.fixture(autouse=True)
def nothing_waits(service):
    """Cancel what a test left behind, and close its connections."""
    yield
    while OPENED:
        OPENED.pop().close()
    for job in service.client.get("/v1/jobs", params={"limit": 1000}).json():
        if job["state"] in ("queued", "leased"):
            service.client.post(f"/v1/jobs/{job['id']}/cancel")


def convs(width, count=20):
    return [f"1x{width}x8x8 ->{8 * n} k3 s1 p1 g1 conv fp32 nchw" for n in range(1, count + 1)]


def worker(service, folder, *, token=None, options=(), said=None, **given):
    server = Server(service.url, worker="test", token=token or service.token)
    OPENED.append(server)
    spec = BackendSpec("fake", options=dict(options))
    tell = said.append if said is not None else None
    return RemoteWorker(server, spec, folder, **{"once": True, "stretch_s": 0.2, "tell": tell, **given})


def wait_for(what, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


class Later(threading.Thread):
    """A call in a thread whose outcome the test looks at."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.result, self.error = call, None, None
        self.start()

    def run(self):
        try:
            self.result = self.call()
        except BaseException as error:
            self.error = error

    def get(self):
        self.join(timeout=120)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


def test_measures_what_was_asked_for_and_leaves_nothing_behind(service, tmp_path):
    job = service.submit(convs(8), wants={"kind": "fake"})
    assert worker(service, tmp_path).run() == 1
    found = service.job(job["id"])
    assert (found["state"], found["done"], found["environment"]) == ("done", 20, KEY)
    table, device = read(service.database, KEY), FakeDevice()
    for text in convs(8):
        row = table[parse_config(text)]
        assert row.latency_us == device.measure(parse_config(text), run_id="").latency_us
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_is_measured_already_is_not_measured_again(service, tmp_path):
    service.submit(convs(16, 4))
    worker(service, tmp_path).run()
    before = read(service.database, KEY)
    again = service.submit(convs(16, 4))
    assert again["state"] == "done"
    said = []
    more = service.submit(convs(16, 6))
    worker(service, tmp_path, said=said).run()
    assert service.job(more["id"])["state"] == "done"
    assert "2 configurations" in said[0]
    now = read(service.database, KEY)
    assert all(now[parse_config(text)] == before[parse_config(text)] for text in convs(16, 4))


def test_a_worker_takes_only_jobs_that_suit_it(service, tmp_path):
    other = service.submit(convs(24, 2), wants={"runtime": "tensorrt"}, priority=5)
    mine = service.submit(convs(24, 2), wants={"device": "Fake"})
    assert worker(service, tmp_path).run() == 1
    assert service.job(other["id"])["state"] == "queued"
    assert service.job(mine["id"])["state"] == "done"


def test_a_model_is_measured_part_by_part_and_as_a_whole(service, tmp_path):
    data = small_network(channels=32, size=16)
    answer = service.client.post(
        "/v1/jobs",
        params={"name": "small", "wants": '{"kind": "fake"}'},
        content=data,
        headers={"content-type": "application/octet-stream"},
    )
    job = answer.json()
    assert answer.status_code == 201
    worker(service, tmp_path).run()
    assert service.job(job["id"])["state"] == "done"
    assert service.job(job["id"])["failures"] == {}
    table = read(service.database, KEY)
    (network,) = [n for n in table.networks if n.name == job["request"]["name"]]
    assert network.name.startswith("small-")
    # The weights, which the server does not keep, have nothing to do with it.
    assert network.measurement.latency_us == pytest.approx(FakeDevice().network_us(data), rel=0.05)
    assert all(table.measured(shape) is not None for shape in network.shapes)


def test_configurations_that_fail_do_so_with_a_reason(service, tmp_path):
    texts = convs(32, 3)
    job = service.submit(texts)
    worker(service, tmp_path, options={"fail_on": texts[:1]}).run()
    found = service.job(job["id"])
    assert found["state"] == "done"
    assert "told to fail" in found["failures"][texts[0]]
    hopeless = service.submit(texts[:1])
    worker(service, tmp_path, options={"fail_on": texts[:1]}).run()
    found = service.job(hopeless["id"])
    assert found["state"] == "failed"
    assert "told to fail" in found["error"]


def test_a_process_that_dies_costs_one_configuration(service, tmp_path):
    texts = convs(40, 4)
    job = service.submit(texts)
    worker(service, tmp_path, options={"crash_on": texts[:1]}).run()
    found = service.job(job["id"])
    assert found["state"] == "done"
    assert list(found["failures"]) == texts[:1]


def test_a_cancelled_job_stops_and_its_rows_stay(service, tmp_path):
    texts = convs(48, 120)
    job = service.submit(texts)
    said = []
    running = Later(worker(service, tmp_path, options={"delay_s": 0.05}, said=said).run)
    wait_for(lambda: service.job(job["id"])["done"])
    service.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert running.get() == 0
    found = service.job(job["id"])
    assert found["state"] == "cancelled"
    table = read(service.database, KEY)
    assert 0 < sum(parse_config(text) in table.rows for text in texts) < 120
    assert any("cancelled" in text for text in said)
    assert not list(tmp_path.glob("*.parquet"))


def test_told_to_stop_it_gives_the_job_back(service, tmp_path):
    texts = convs(56, 120)
    job = service.submit(texts)
    stop = threading.Event()
    running = Later(worker(service, tmp_path, options={"delay_s": 0.05}, stop=stop, once=False).run)
    wait_for(lambda: service.job(job["id"])["state"] == "leased")
    time.sleep(0.5)
    stop.set()
    assert running.get() == 0
    found = service.job(job["id"])
    assert found["state"] == "queued"
    assert found["attempts"] == 0
    assert found["not_before"] <= time.time()
    # Whoever takes it next is asked for the rest only.
    said = []
    worker(service, tmp_path, said=said).run()
    assert service.job(job["id"])["state"] == "done"
    assert "120 configurations" not in said[0]


def test_a_lease_that_was_taken_over_costs_no_rows(service, tmp_path):
    texts = convs(64, 60)
    job = service.submit(texts)
    said = []
    slow = worker(service, tmp_path / "slow", options={"delay_s": 0.03}, said=said)
    # Its heartbeats do not arrive: the lease expires while it measures, and posts rows only at the end.
    slow._server.heartbeat = lambda lease: "leased"
    slow._stretch_s = 1e6
    running = Later(slow.run)
    wait_for(lambda: service.job(job["id"])["state"] == "leased")
    with service.database.write() as connection:
        connection.exec_driver_sql("UPDATE jobs SET lease_until = 0 WHERE state = 'leased'")
    other = worker(service, tmp_path / "other", options={"launch_us": 2.0})
    other.run()
    assert service.job(job["id"])["state"] == "done"
    assert running.get() == 0
    # Both environments have all rows: the late ones are as good as the others.
    here, there = (
        read(service.database, KEY),
        read(service.database, FakeDevice(launch_us=2.0).environment.key),
    )
    assert sum(parse_config(text) in here.rows for text in texts) >= 32
    assert all(parse_config(text) in there.rows for text in texts)
    assert service.job(job["id"])["environment"] == there.environment.key


def test_what_a_killed_worker_left_is_sent_by_the_next(service, tmp_path):
    texts = convs(72, 4)
    job = service.submit(texts)
    server = Server(service.url, worker="dead", token=service.token)
    device = FakeDevice()
    from profiler.workers.base import Description

    lease = server.lease(Description.of(device))
    assert lease.job == job["id"]
    with Outbox(tmp_path, tell=print) as outbox:
        part = outbox.begin(lease.lease)
        with Journal(journal_path(part.table), device.environment) as journal:
            for text in texts[:3]:
                config = parse_config(text)
                journal.add_row(config, device.measure(config, run_id="dead"))
        with journal_path(part.table).open("ab") as stream:
            stream.write(b'{"kind": "conv", "config"')  # it was killed in the middle of a line
    server.close()
    worker(service, tmp_path).run()
    found = service.job(job["id"])
    assert found["done"] == 3
    assert found["state"] == "queued"
    assert "ended in the middle" in found["error"]
    assert not list(tmp_path.glob("*.j*"))
    wait_for(lambda: service.job(job["id"])["not_before"] <= time.time())
    worker(service, tmp_path).run()
    assert service.job(job["id"])["state"] == "done"


def test_a_server_that_goes_away_is_waited_for(tmp_path):
    port = free_port()
    said = []
    with live_service(tmp_path, port=port, lease_s=2.0) as live:
        texts = convs(80, 80)
        job = live.submit(texts)
        running = Later(worker(live, tmp_path / "box", options={"delay_s": 0.02}, said=said).run)
        wait_for(lambda: live.job(job["id"])["done"])
        live.stop()
        # It goes on measuring, and keeps what it has.
        wait_for(lambda: list((tmp_path / "box").glob("*.parquet")))
        wait_for(lambda: any("does not answer" in text for text in said))
        live.start()
        assert running.get() == 1
        assert live.job(job["id"])["state"] == "done"
        assert not list((tmp_path / "box").glob("*.parquet"))
    assert "the server answers again" in said


def test_a_token_without_the_scope_is_refused_in_one_sentence(service, tmp_path):
    from latency_model.service.store.tokens import create_token

    reader = create_token(service.database, "reader", ["read", "jobs:write"])[1]
    for token in (reader, "ghl_wrong"):
        with pytest.raises(InputError, match="scope `work`"):
            worker(service, tmp_path, token=token).run()


def test_a_device_that_is_lost_ends_the_attempt_and_the_worker(service, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise GharialError("20 workers in a row died")

    job = service.submit(convs(88, 3), max_attempts=2)
    monkeypatch.setattr("profiler.remote.work.profile", lost)
    with pytest.raises(GharialError, match="20 workers"):
        worker(service, tmp_path).run()
    found = service.job(job["id"])
    assert (found["state"], found["attempts"]) == ("queued", 1)
    assert "20 workers" in found["error"]
    wait_for(lambda: service.job(job["id"])["not_before"] <= time.time())
    with pytest.raises(GharialError, match="20 workers"):
        worker(service, tmp_path).run()
    found = service.job(job["id"])
    assert found["state"] == "failed"
    assert "attempt 2 of 2" in found["error"]


def test_a_device_that_cannot_be_opened_takes_no_job(service, tmp_path):
    job = service.submit(convs(112, 3))
    with pytest.raises(InputError, match="no such GPU"):
        worker(service, tmp_path, options={"refuse": "no such GPU"}).run()
    assert service.job(job["id"])["attempts"] == 0


def test_two_workers_do_not_share_an_outbox(tmp_path):
    with (
        Outbox(tmp_path, tell=print),
        pytest.raises(InputError, match="another worker"),
        Outbox(tmp_path, tell=print),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_ends_in_order_at_a_signal(service, tmp_path, number):
    texts = convs(96 if number == signal.SIGTERM else 104, 200)
    job = service.submit(texts)
    command = [sys.executable, "-m", "gharial", "worker", "--server", service.url, "--runtime", "fake"]
    command += ["--option", "delay_s=0.05", "--outbox", str(tmp_path), "--stretch", "0.5"]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "GHARIAL_TOKEN": service.token},
        text=True,
    )
    wait_for(lambda: service.job(job["id"])["done"])
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "given back" in said
    found = service.job(job["id"])
    assert found["state"] == "queued"
    assert 0 < found["done"] < 200
    assert not list(tmp_path.glob("*.parquet*"))
