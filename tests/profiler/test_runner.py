import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest

from latency_model import ConvShape, LatencyTable
from latency_model.errors import MeasurementError, TableError
from profiler.backends.fake import FakeDevice
from profiler.journal import Journal, journal_path
from profiler.runner import missing, profile
from profiler.testing import small_network

SHAPES = [ConvShape(1, i, 8, 8, o) for i in (8, 16, 24) for o in (8, 16, 24, 32)]
NETWORK = ("small", small_network(channels=8, size=8), (SHAPES[0],))


class Counting(FakeDevice):
    """Counts what it is asked for, and may be interrupted."""

    def __init__(self, *, interrupt_at=None, **options):
        super().__init__(**options)
        self.asked, self.interrupt_at = Counter(), interrupt_at

    def measure(self, shape, *, run_id):
        if sum(self.asked.values()) == self.interrupt_at:
            raise KeyboardInterrupt
        self.asked[shape] += 1
        return super().measure(shape, run_id=run_id)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "table.parquet"


def latencies(table):
    return {shape: row.latency_us for shape, row in table.items()}


def test_every_shape_is_measured_and_the_table_is_on_the_disk(out):
    steps = []
    table = profile(
        FakeDevice(), SHAPES * 2, out=out, networks=[NETWORK], progress=lambda *step: steps.append(step)
    )
    assert set(table) == set(SHAPES)
    assert LatencyTable.load(out) == table
    assert table.networks[0].name == "small"
    assert not journal_path(out).exists()
    assert [step[:2] for step in steps] == [(n, len(SHAPES)) for n in range(len(SHAPES) + 1)]


def test_a_second_run_measures_only_what_is_missing(out):
    first = profile(FakeDevice(), SHAPES[:5], out=out, networks=[NETWORK])
    device = Counting()
    second = profile(device, SHAPES, out=out, networks=[NETWORK])
    assert set(device.asked) == set(SHAPES[5:])
    assert all(second[shape] == first[shape] for shape in first)
    assert second.networks == first.networks
    assert missing(SHAPES, out=out, environment=device.environment) == ()


def test_nothing_missing_measures_nothing(out):
    profile(FakeDevice(), SHAPES, out=out, networks=[NETWORK])
    before = LatencyTable.load(out)
    device = Counting()
    assert profile(device, SHAPES, out=out, networks=[NETWORK]) == before
    assert not device.asked


def test_a_failure_is_tried_twice_and_recorded(out):
    device = Counting(fail_on=[SHAPES[3]])
    table = profile(device, SHAPES, out=out)
    assert set(table) == set(SHAPES) - {SHAPES[3]}
    assert "told to fail" in table.failures[SHAPES[3]]
    assert device.asked[SHAPES[3]] == 2
    again = Counting()
    assert profile(again, SHAPES, out=out) == table
    assert not again.asked


def test_a_failure_that_goes_away_is_no_failure(out):
    table = profile(FakeDevice(fail_on=[SHAPES[3]], fail_times=1), SHAPES, out=out)
    assert not table.failures
    assert set(table) == set(SHAPES)


def test_recorded_failures_are_retried_on_request(out):
    profile(FakeDevice(fail_on=[SHAPES[3]]), SHAPES, out=out)
    table = profile(FakeDevice(), SHAPES, out=out, retry_failed=True)
    assert not table.failures
    assert set(table) == set(SHAPES)


def test_interrupting_folds_the_journal_and_the_next_run_goes_on(out):
    device = Counting(interrupt_at=5)
    with pytest.raises(KeyboardInterrupt):
        profile(device, SHAPES, out=out)
    assert set(LatencyTable.load(out)) == set(device.asked)
    assert not journal_path(out).exists()
    rest, whole = Counting(), profile(FakeDevice(), SHAPES, out=f"{out}2")
    assert latencies(profile(rest, SHAPES, out=out)) == latencies(whole)
    assert not set(rest.asked) & set(device.asked)


def test_a_table_of_another_environment_is_refused_and_left_alone(out):
    profile(FakeDevice(), SHAPES[:2], out=out)
    before = out.read_bytes()
    device = Counting(seed=3)
    with pytest.raises(TableError, match=r"another environment.*seed.*--out"):
        profile(device, SHAPES, out=out)
    assert out.read_bytes() == before
    assert not device.asked


def test_a_damaged_table_is_refused_and_left_alone(out):
    out.write_bytes(b"PAR1 no")
    with pytest.raises(TableError, match="damaged"):
        profile(FakeDevice(), SHAPES, out=out)
    assert out.read_bytes() == b"PAR1 no"


def test_a_steady_device_flags_nothing(out):
    table = profile(FakeDevice(), SHAPES, out=out, sentinel_seconds=0.0)
    assert not any(row.flags for row in table.values())


def test_drift_is_flagged_from_the_last_good_sentinel_on(out):
    notes = []
    # Row and sentinel alternate, so the drift starts somewhere in the middle.
    device = FakeDevice(drift_after=15, drift_factor=1.2)
    table = profile(device, SHAPES, out=out, sentinel_seconds=0.0, note=notes.append)
    truth = latencies(profile(FakeDevice(), SHAPES, out=f"{out}2"))
    for shape, row in table.items():
        assert ("drift" in row.flags) == (row.latency_us > truth[shape] * 1.01)
    assert 0 < sum("drift" in row.flags for row in table.values()) < len(SHAPES)
    assert any("drifted" in sentence for sentence in notes)
    assert LatencyTable.load(out) == table


def test_a_network_that_cannot_be_timed_is_said_and_the_others_are_timed(out):
    notes = []
    broken = ("broken", b"junk", (SHAPES[0],))
    table = profile(FakeDevice(), SHAPES[:1], out=out, networks=[broken, NETWORK], note=notes.append)
    assert [network.name for network in table.networks] == ["small"]
    assert any("broken" in sentence for sentence in notes)


def test_a_crash_between_table_and_journal_loses_and_doubles_nothing(out, monkeypatch):
    monkeypatch.setattr(Journal, "delete", lambda self: None)
    first = profile(FakeDevice(), SHAPES, out=out, networks=[NETWORK])
    monkeypatch.undo()
    assert journal_path(out).exists()
    device = Counting()
    assert profile(device, SHAPES, out=out, networks=[NETWORK]) == first
    assert not device.asked
    assert not journal_path(out).exists()


def test_a_bug_in_a_back_end_keeps_what_was_measured(out):
    class Broken(Counting):
        def measure(self, shape, *, run_id):
            if sum(self.asked.values()) == 3:
                raise RuntimeError("bug")
            return super().measure(shape, run_id=run_id)

    with pytest.raises(RuntimeError, match="bug"):
        profile(Broken(), SHAPES, out=out)
    assert len(LatencyTable.load(out)) == 3


SCRIPT = """
import sys
from pathlib import Path
from latency_model import ConvShape
from profiler.backends.fake import FakeDevice
from profiler.runner import profile
shapes = [ConvShape(1, i, 8, 8, o) for i in range(8, 88, 8) for o in range(8, 88, 8)]
fail = [shapes[7]]
profile(FakeDevice(delay_s=0.002, fail_on=fail), shapes, out=Path(sys.argv[1]), sentinel_seconds=0.05)
"""


def finished(journal):
    """The configurations of the journal's whole lines, in order."""
    if not journal.exists():
        return []
    lines = journal.read_bytes().split(b"\n")[:-1]
    kept = [json.loads(line) for line in lines]
    return [line["config"] for line in kept if line["kind"] in ("conv", "failure")]


def size(path):
    return path.stat().st_size if path.exists() else 0


def test_killed_at_random_moments_no_row_is_lost_or_measured_twice(out, tmp_path):
    rng, journal, seen = random.Random(0), journal_path(out), []
    for kill in range(10):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(out)])
        # Anywhere in the next few rows, so that however slow the machine is, the kill comes in the middle.
        target = size(journal) + (rng.randrange(1, 3500) if kill else 1)
        while size(journal) < target and process.poll() is None:
            time.sleep(0.0002)
        time.sleep(rng.uniform(0.0, 0.002))
        assert process.poll() is None, "it finished before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = finished(journal)
        assert now[: len(seen)] == seen, "a finished row was lost"
        assert len(set(now)) == len(now), "a configuration was measured twice"
        seen = now
    assert 10 < len(seen) < 100
    subprocess.run([sys.executable, "-c", SCRIPT, str(out)], check=True)
    table = LatencyTable.load(out)
    shapes = [ConvShape(1, i, 8, 8, o) for i in range(8, 88, 8) for o in range(8, 88, 8)]
    whole = profile(FakeDevice(fail_on=[shapes[7]]), shapes, out=tmp_path / "whole.parquet")
    assert latencies(table) == latencies(whole)
    assert table.failures == whole.failures
    assert not journal.exists()


def test_a_device_that_takes_the_process_down_is_survived(out):
    script = SCRIPT.replace("fail_on=fail", "crash_after=40")
    codes = []
    start = time.monotonic()
    while not codes or codes[-1]:
        codes.append(subprocess.run([sys.executable, "-c", script, str(out)], capture_output=True).returncode)
        assert time.monotonic() - start < 60
    assert set(codes[:-1]) == {9}
    assert len(LatencyTable.load(out)) == 100


def test_the_sentinel_that_fails_is_said(out):
    class Once(FakeDevice):
        def __init__(self):
            super().__init__()
            self.seen = Counter()

        def measure(self, shape, *, run_id):
            self.seen[shape] += 1
            if self.seen[shape] > 1:
                raise MeasurementError("gone")
            return super().measure(shape, run_id=run_id)

    notes = []
    table = profile(Once(), SHAPES, out=out, note=notes.append)
    assert len(table) == len(SHAPES)
    assert any("sentinel" in sentence for sentence in notes)


def test_a_moment_of_disturbance_is_not_drift(out):
    class Blip(FakeDevice):
        """The third time that the sentinel is looked at, something else runs."""

        def __init__(self):
            super().__init__()
            self.looks = Counter()

        def measure(self, shape, *, run_id):
            self.looks[shape] += 1
            row = super().measure(shape, run_id=run_id)
            slower = 3.0 if self.looks[shape] == 4 else 1.0
            return replace(row, latency_us=slower * row.latency_us, high_us=slower * row.high_us)

    table = profile(Blip(), SHAPES, out=out, sentinel_seconds=0.0)
    assert not any(row.flags for row in table.values())


class Disturbed(FakeDevice):
    """Reads each network at given speeds, and gives one shape a wide interval the first time."""

    def __init__(self, *, factors=(), wide=None, second=1.0):
        super().__init__(noise=0.0)
        self.factors, self.wide, self.second, self.read, self.seen = list(factors), wide, second, 0, 0

    def time_networks(self, models, **options):
        rows = super().time_networks(models, **options)
        factor = self.factors[min(self.read, len(self.factors) - 1)]
        self.read += 1
        return [replace(r, latency_us=factor, low_us=factor, high_us=factor) for r in rows]

    def measure(self, shape, *, run_id):
        row = super().measure(shape, run_id=run_id)
        if shape == self.wide:
            self.seen += 1
            width = 0.2 if self.seen == 1 else self.second
            return replace(
                row,
                low_us=row.latency_us * (1 - width),
                high_us=row.latency_us * (1 + width),
                flags=("unstable",) if width > 0.1 else (),
            )
        return row


@pytest.mark.parametrize(
    ("factors", "kept", "reads", "flagged"),
    [
        ([450, 452], 450, 2, False),
        ([550, 450, 451], 450, 3, False),
        ([550, 451, 600, 450], 450, 4, False),
        ([450, 500, 560, 620, 700], 450, 5, True),
    ],
)
def test_a_network_counts_when_its_two_fastest_readings_agree(
    out, monkeypatch, factors, kept, reads, flagged
):
    monkeypatch.setattr("profiler.network_times._PAUSE_S", 0.0)
    device = Disturbed(factors=factors)
    table = profile(device, SHAPES[:2], out=out, networks=[NETWORK])
    assert device.read == reads
    assert table.networks[0].measurement.latency_us == kept
    assert ("unstable" in table.networks[0].measurement.flags) == flagged


@pytest.mark.parametrize(("second", "flags"), [(0.01, ()), (0.3, ("unstable",))])
def test_an_unstable_row_gets_one_more_try_and_the_narrower_interval_stays(out, second, flags):
    device = Disturbed(factors=[1.0], wide=SHAPES[0], second=second)
    table = profile(device, SHAPES, out=out)
    row = table[SHAPES[0]]
    assert device.seen == 2
    assert row.flags == flags
    assert (row.high_us - row.low_us) / row.latency_us == pytest.approx(2 * min(0.2, second))
    assert LatencyTable.load(out) == table
