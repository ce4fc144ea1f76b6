"""A real Ray cluster of this machine: two workers, one of which is killed in the middle of its work."""

import json
import os
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from latency_model import ConvShape, LatencyTable
from latency_model.errors import DependencyError, GharialError, InputError
from profiler.backends.fake import FakeDevice
from profiler.runner import profile
from profiler.spec import BackendSpec
from profiler.workers import open_workers

SHAPES = [ConvShape(1, i, 8, 8, o) for i in range(8, 56, 8) for o in range(8, 56, 8)]
BAD = SHAPES[5]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ray():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gharial[cluster]'")
        # A short path: Ray's sockets lie below it, and their paths may not be longer than 107 bytes.
        with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder:
            ray.init(
                num_cpus=2,
                num_gpus=0,
                include_dashboard=False,
                _temp_dir=folder,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=100 * 2**20,
            )
            yield ray
            ray.shutdown()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "table.parquet"


def fleet(*, count=2, time_limit_s=60.0, **options):
    return open_workers(
        [BackendSpec("fake", options=options)], cluster="auto", count=count, time_limit_s=time_limit_s
    )


def latencies(table):
    return {shape: row.latency_us for shape, row in table.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return latencies(profile(FakeDevice(), SHAPES, out=tmp_path_factory.mktemp("whole") / "t.parquet"))


def test_a_worker_killed_midway_loses_and_doubles_nothing(ray, out, whole, monkeypatch):
    monkeypatch.setattr("profiler.journal.Journal.delete", lambda self: None)
    notes = []
    with fleet(delay_s=0.05) as workers:

        def kill(done, total, what):
            if done == 10:
                os.kill(workers.pids[0], signal.SIGKILL)

        table = profile(workers, SHAPES, out=out, progress=kill, note=notes.append)
        names = workers.names
    assert latencies(table) == whole
    assert not table.failures
    assert any("was lost" in sentence for sentence in notes)
    lines = [json.loads(line) for line in (out.parent / f"{out.name}.journal").read_text().splitlines()]
    rows = [line for line in lines if line["kind"] == "conv"]
    assert max(Counter(line["config"] for line in rows).values()) == 1
    assert {line["worker"] for line in rows} == set(names)


def test_a_crash_on_a_node_costs_one_configuration_and_no_worker(ray, out, whole):
    notes = []
    with fleet(crash_on=[BAD.text]) as workers:
        table = profile(workers, SHAPES, out=out, note=notes.append)
    assert set(table.failures) == {BAD}
    assert "signal 11" in table.failures[BAD]
    assert latencies(table) == {shape: us for shape, us in whole.items() if shape != BAD}
    assert not notes


def test_when_every_worker_is_gone_the_rows_are_kept_and_the_next_run_goes_on(ray, out, whole):
    with fleet(delay_s=0.05) as workers:

        def kill(done, total, what):
            if done == 8:
                for pid in workers.pids:
                    os.kill(pid, signal.SIGKILL)

        with pytest.raises(GharialError, match="every worker of the cluster"):
            profile(workers, SHAPES, out=out, progress=kill)
    assert 8 <= len(LatencyTable.load(out)) < len(SHAPES)
    with fleet() as workers:
        assert latencies(profile(workers, SHAPES, out=out)) == whole


def test_a_back_end_that_no_node_can_open_is_one_sentence(ray, out):
    with pytest.raises(InputError, match=r"^no CUDA here$"), fleet(refuse="no CUDA here"):
        pass
    with (
        pytest.raises(InputError, match="has no GPU"),
        open_workers([BackendSpec("fake", "cuda:0")], cluster="auto"),
    ):
        pass


def test_too_many_workers_for_the_cluster_are_said(ray):
    says = r"1 of 3 workers found no place.*--workers"
    with pytest.raises(InputError, match=says), fleet(count=3, time_limit_s=20.0):
        pass


def test_the_worker_processes_on_a_node_end_with_the_fleet(ray, out):
    with fleet(delay_s=1000.0) as workers:
        children = [
            int(word)
            for pid in workers.pids
            for path in Path(f"/proc/{pid}/task").glob("*/children")
            for word in path.read_text().split()
        ]
    assert children
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in children)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_without_ray_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyError, match=r"pip install 'gharial\[cluster\]'"):
        fleet()
