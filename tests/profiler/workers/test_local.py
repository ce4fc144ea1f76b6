"""Worker processes: what crashes, hangs or breaks in one costs one configuration and nothing else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from latency_model import ConvShape, LatencyTable
from latency_model.errors import DeviceLostError, GharialError, InputError, TableError
from profiler.backends.fake import FakeDevice
from profiler.journal import journal_path
from profiler.runner import profile
from profiler.spec import BackendSpec
from profiler.testing import small_network
from profiler.workers import open_workers

SHAPES = [ConvShape(1, i, 8, 8, o) for i in (8, 16, 24) for o in (8, 16, 24, 32)]
BAD = SHAPES[3]
NETWORK = ("small", small_network(channels=8, size=8), (SHAPES[0],))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "table.parquet"


def spec(device="fake:0", **options):
    return BackendSpec("fake", device, options=options)


def latencies(table):
    return {shape: row.latency_us for shape, row in table.items()}


def run(specs, out, *, time_limit_s=60.0, **options):
    with open_workers(specs, time_limit_s=time_limit_s) as workers:
        return profile(workers, SHAPES, out=out, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return profile(
        FakeDevice(), SHAPES, out=tmp_path_factory.mktemp("whole") / "t.parquet", networks=[NETWORK]
    )


def gone(pid):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_a_worker_makes_the_same_table_as_this_process(out, whole, at_once):
    steps = []
    table = profile(
        spec(at_once=at_once),
        SHAPES,
        out=out,
        networks=[NETWORK],
        progress=lambda *step: steps.append(step[:2]),
    )
    assert latencies(table) == latencies(whole)
    assert [n.measurement.latency_us for n in table.networks] == [
        n.measurement.latency_us for n in whole.networks
    ]
    assert steps == [(n, len(SHAPES)) for n in range(len(SHAPES) + 1)]
    assert LatencyTable.load(out) == table


@pytest.mark.parametrize(
    ("misbehaviour", "at_once", "says"),
    [
        ({"crash_on": [BAD.text]}, 1, r"killed by signal 11 \(SIGSEGV\) while timing"),
        (
            {"crash_on": [BAD.text], "crash_signal": 9},
            5,
            r"signal 9 \(SIGKILL\), as the system does when memory",
        ),
        ({"break_on": [BAD.text]}, 5, "gave up after RuntimeError: an illegal memory access"),
        ({"break_on": [BAD.text], "break_error": "bug"}, 1, "gave up after RuntimeError: bug"),
    ],
)
def test_a_crash_costs_one_configuration(out, whole, misbehaviour, says, at_once):
    table = run([spec(**misbehaviour, at_once=at_once)], out)
    assert set(table.failures) == {BAD}
    assert re.search(says, table.failures[BAD])
    assert latencies(table) == {s: v for s, v in latencies(whole).items() if s != BAD}


def test_a_hang_costs_one_configuration(out, whole):
    table = run([spec(hang_on=[BAD.text])], out, time_limit_s=2.0)
    assert "stopped after 2 s without a result" in table.failures[BAD]
    assert "--time-limit" in table.failures[BAD]
    assert set(table) == set(SHAPES) - {BAD}


@pytest.mark.parametrize("at_once", [1, 5])
def test_a_crash_that_does_not_come_back_costs_nothing(out, whole, tmp_path, at_once):
    table = run([spec(crash_on=[BAD.text], crash_marker=str(tmp_path / "crashed"), at_once=at_once)], out)
    assert (tmp_path / "crashed").exists()
    assert not table.failures
    assert latencies(table) == latencies(whole)


def test_a_worker_killed_from_outside_is_replaced(out, whole):
    with open_workers([spec(delay_s=0.02)]) as workers:
        first = workers.pids

        def kill(done, total, what):
            if done == 4:
                os.kill(workers.pids[0], signal.SIGKILL)

        table = profile(workers, SHAPES, out=out, progress=kill)
        assert workers.pids != first
    assert latencies(table) == latencies(whole)
    assert not table.failures


def test_an_error_message_of_a_destroyed_context_ends_the_process_even_as_a_measuring_error(out):
    from latency_model.errors import MeasurementError
    from profiler.workers.child import poisons

    assert poisons(MeasurementError("CUDA failure 700: an illegal memory access was encountered"))
    assert poisons(RuntimeError("cudaErrorLaunchFailure"))
    assert poisons(DeviceLostError("the device does not answer any more"))
    assert not poisons(MeasurementError("out of memory"))


def test_two_devices_share_one_queue_and_the_journal_says_who_measured_what(out, whole, monkeypatch):
    kept = []
    monkeypatch.setattr(
        "profiler.journal.Journal.delete", lambda self: kept.extend(self.path.read_bytes().splitlines())
    )
    table = run([spec("fake:0", delay_s=0.02), spec("fake:1", delay_s=0.02)], out)
    assert latencies(table) == latencies(whole)
    lines = [json.loads(line) for line in kept]
    rows = [line["worker"] for line in lines if line["kind"] == "conv"]
    assert set(rows) == {"fake:0", "fake:1"}
    first = {}
    for line in lines:
        if line["kind"] == "sentinel":
            first.setdefault(line["worker"], line["config"])
    assert len(first) == len(set(first.values())) == 2


def test_the_drift_of_one_device_flags_its_rows_only(out, monkeypatch):
    lines, notes = [], []
    monkeypatch.setattr(
        "profiler.journal.Journal.delete",
        lambda self: lines.extend(map(json.loads, self.path.read_text().splitlines())),
    )
    steady, drifting = spec("fake:0", delay_s=0.02), spec("fake:1", delay_s=0.02, drift_after=1)
    table = run([steady, drifting], out, note=notes.append)
    by = {"fake:0": set(), "fake:1": set()}
    for line in lines:
        if line["kind"] == "conv":
            by[line["worker"]].add(ConvShape.parse(line["config"]))
    # Its first row is its sentinel: what it drifted from.
    sentinel = next(
        line["config"] for line in lines if line["kind"] == "sentinel" and line["worker"] == "fake:1"
    )
    flagged = {shape for shape, row in table.items() if "drift" in row.flags}
    assert flagged == by["fake:1"] - {ConvShape.parse(sentinel)}
    assert flagged and by["fake:0"]
    assert any("fake:1 drifted" in sentence for sentence in notes)


def test_devices_that_differ_are_refused_before_anything_is_measured(out):
    with pytest.raises(InputError, match=r"fake:1 is not like fake:0 \(options: .*seed.*own --out"):
        run([spec("fake:0"), spec("fake:1", seed=7)], out)
    assert not out.exists()


def test_a_back_end_that_cannot_open_ends_the_run_with_its_sentence(out):
    with pytest.raises(InputError, match=r"^no CUDA here; use --device cpu$"):
        run([spec(refuse="no CUDA here; use --device cpu")], out)
    with pytest.raises(InputError, match="unknown runtime 'nonsense'"):
        run([BackendSpec("nonsense")], out)


def test_a_worker_that_dies_at_its_start_is_started_again_but_not_for_ever(out, whole, tmp_path):
    once = spec(die_at_start=True, crash_marker=str(tmp_path / "died"))
    assert latencies(run([once], out)) == latencies(whole)
    with pytest.raises(
        InputError, match=r"killed by signal 11 .* while it opened the back end fake \(try 3\)"
    ):
        run([spec(die_at_start=True)], out)


def test_a_back_end_that_hangs_at_its_start_is_not_waited_for(out, monkeypatch):
    monkeypatch.setattr("profiler.workers.process.OPEN_S", 1.0)
    with pytest.raises(InputError, match=r"stopped after 1 s while it opened the back end fake \(try 1\)"):
        run([spec(die_at_start=True, crash_signal=19)], out, time_limit_s=1.0)


def test_workers_serve_one_run_after_the_other(out, whole, tmp_path):
    with open_workers([spec(crash_on=[BAD.text])]) as workers:
        for name in ("one", "two"):
            table = profile(workers, SHAPES, out=tmp_path / name)
            assert set(table.failures) == {BAD}


def test_a_table_of_another_device_is_refused_and_left_alone(out):
    run([spec()], out)
    before = out.read_bytes()
    with pytest.raises(TableError, match=r"another environment.*seed.*--out"):
        run([spec(seed=3)], out)
    assert out.read_bytes() == before


def test_a_device_on_which_everything_crashes_ends_the_run_and_blames_not_all(out, monkeypatch):
    monkeypatch.setattr("profiler.scheduler._DEATHS", 6)
    with pytest.raises(GharialError, match="6 workers in a row died"):
        run([spec(crash_on=[shape.text for shape in SHAPES])], out)
    table = LatencyTable.load(out)
    assert not table
    assert len(table.failures) < len(SHAPES)


def test_a_network_that_takes_the_worker_down_is_said_and_rows_are_kept(out, whole):
    notes = []
    broken = ("broken", b"junk", (SHAPES[0],))
    table = run([spec()], out, networks=[broken, NETWORK], note=notes.append)
    assert [network.name for network in table.networks] == ["small"]
    assert any("broken was not timed" in sentence for sentence in notes)


def test_what_a_back_end_prints_does_not_disturb_the_pipe(out, whole, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import profiler.backends.fake as fake\n"
        "real = fake.FakeDevice.measure\n"
        "def loud(self, *a, **k):\n    print('x' * 100000); return real(self, *a, **k)\n"
        "fake.FakeDevice.measure = loud\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert latencies(run([spec()], out)) == latencies(whole)


SCRIPT = """
import signal
import sys
from latency_model import ConvShape
from profiler.runner import profile
from profiler.spec import BackendSpec
from profiler.workers import open_workers
# A job in the background of a shell inherits that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
shapes = [ConvShape(1, i, 8, 8, o) for i in range(8, 88, 8) for o in range(8, 88, 8)]
specs = [BackendSpec("fake", f"fake:{n}", options={"delay_s": float(sys.argv[2])}) for n in range(2)]
with open_workers(specs) as workers:
    print(*workers.pids, flush=True)
    profile(workers, shapes, out=sys.argv[1], progress=lambda *step: print(step[0], flush=True))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay_s", [0.05, 1000.0])
def test_however_the_parent_ends_no_worker_outlives_it(out, how, delay_s):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), str(delay_s)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    pids = list(map(int, process.stdout.readline().split()))
    while int(process.stdout.readline()) < (3 if delay_s < 1 else 0):
        pass
    time.sleep(0.5)  # so that the workers are in the middle of a measurement, which at 1000 s never ends
    process.send_signal(how)
    process.communicate(timeout=60)
    assert len(pids) == 2
    assert all(map(gone, pids))
    if delay_s < 1 and how == signal.SIGINT:
        assert 3 <= len(LatencyTable.load(out)) < 100
        assert not journal_path(out).exists()
    # The lock went with the parent: nothing that is left of it holds the journal.
    assert len(profile(FakeDevice(), SHAPES, out=out)) >= len(SHAPES)


def test_workers_go_on_in_fresh_processes(out):
    with open_workers([spec("fake:0"), spec("fake:1")]) as workers:
        before = workers.pids
        workers.renew()
        after = workers.pids
        assert not set(before) & set(after)
        assert all(map(gone, before))
        table = profile(workers, SHAPES, out=out)
    assert set(table) >= set(SHAPES)
