"""The parts of a worker by themselves: waiting, stretches, the outbox, weights, the server's answers."""

from __future__ import annotations

import json
import threading

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from misbehaving import CLOSE, Misbehaving, answer, problem
from onnx import numpy_helper

from latency_model.errors import InputError, ModelError
from latency_model.harvest import harvest_onnx
from latency_model.harvest.onnx_skeleton import skeleton_of
from latency_model.network_json import network_to_json
from latency_model.ops import parse_config
from latency_model.table import LatencyTable
from profiler.backends.fake import FakeDevice
from profiler.journal import Journal, journal_path
from profiler.remote.outbox import Outbox
from profiler.remote.patience import Patience
from profiler.remote.server import AwayError, OverError, RefusedError, Server
from profiler.remote.stretches import Stretches
from profiler.remote.weights import with_weights
from profiler.testing import small_network

TEXT = "1x8x8x8 ->8 k3 s1 p1 g1 conv fp32 nchw"


class Clock(threading.Event):
    """A ``stop`` that nobody waits for: it writes down how long it was to be."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def wait(self, timeout=None):
        self.waits.append(timeout)
        return self.is_set()


def test_patience_waits_longer_and_longer_up_to_a_limit():
    clock, said, left = Clock(), [], [None] * 12

    def request():
        if left:
            left.pop()
            raise AwayError("nobody there")
        return "here"

    assert Patience(clock, said.append, seed=1).ask(request) == "here"
    assert len(clock.waits) == 12
    for number, wait in enumerate(clock.waits):
        middle = min(30.0, 0.2 * 2.0**number)
        assert 0.5 * middle <= wait <= 1.5 * middle
    assert len(set(clock.waits)) == 12
    assert said == ["nobody there; trying again until it does", "the server answers again"]


def test_patience_comes_back_when_the_server_says_and_gives_up_when_told_to_stop():
    clock, asked = Clock(), []

    def request():
        asked.append(None)
        if len(asked) == 3:
            clock.set()
        raise AwayError("busy", later_s=100.0)

    with pytest.raises(AwayError):
        Patience(clock, lambda _: None, grace_s=0.0).ask(request)
    assert clock.waits == [100.0, 100.0]


@given(st.lists(st.tuples(st.floats(1e-4, 10.0), st.booleans()), max_size=20), st.integers(1, 64))
def test_stretches_stay_within_bounds_and_grow_slowly(speeds, at_once):
    stretches = Stretches(60.0, at_once=at_once)
    for seconds_each, _ in speeds:
        before = stretches.size
        stretches.took(before, before * seconds_each)
        assert max(16, 2 * at_once) <= stretches.size <= 4096
        assert stretches.size <= 4 * before
        if 16 < stretches.size < min(4096, 4 * before) and stretches.size > 2 * at_once:
            assert stretches.size == round(before * 60.0 / (before * seconds_each))


def test_the_outbox_gives_back_what_a_killed_worker_left(tmp_path):
    device, said = FakeDevice(), []
    with Outbox(tmp_path, tell=said.append) as outbox:
        whole, torn, empty, bare = (outbox.begin(f"job.{n}") for n in range(4))
        LatencyTable(device.environment).save(whole.table)
        with Journal(journal_path(torn.table), device.environment) as journal:
            journal.add_row(parse_config(TEXT), device.measure(parse_config(TEXT), run_id=""))
        journal_path(empty.table).write_bytes(b'{"kind": "hea')
    with Outbox(tmp_path, tell=said.append) as outbox:
        outbox.recover()
        assert outbox.parts() == [whole, torn, empty, bare]
        assert list(LatencyTable.load(torn.table)) == [parse_config(TEXT)]
        assert not empty.table.exists()
        assert not list(tmp_path.glob("*.journal"))
        assert outbox.begin("job.9").table.name == "00000005.parquet"
        for part in outbox.parts():
            part.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    assert not said


def test_a_damaged_journal_is_kept_and_told_of(tmp_path):
    said = []
    with Outbox(tmp_path, tell=said.append) as outbox:
        part = outbox.begin("job.1")
        journal_path(part.table).write_bytes(b"no journal\n")
        outbox.recover()
    assert (tmp_path / "damaged-00000001.parquet.journal").is_file()
    assert "cannot be read" in said[0]


def test_made_up_weights_leave_the_network_what_it_is():
    model = small_network(channels=64, size=8)
    skeleton = skeleton_of([model])
    assert len(skeleton) < len(model) / 10
    filled = with_weights(skeleton)
    onnx.checker.check_model(onnx.load_model_from_string(filled), full_check=True)
    assert network_to_json(harvest_onnx(filled)) == network_to_json(harvest_onnx(model))
    assert with_weights(filled) is filled
    assert with_weights(skeleton) == filled
    assert with_weights(skeleton, seed=1) != filled
    for tensor in onnx.load_model_from_string(filled).graph.initializer:
        values = numpy_helper.to_array(tensor)
        assert np.isfinite(values).all()
        assert values.std() == pytest.approx(np.prod(values.shape[1:]) ** -0.5, rel=0.1)


def test_weights_of_a_type_that_cannot_be_made_up_are_an_error():
    model = onnx.load_model_from_string(small_network(channels=8, size=8))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_type = onnx.TensorProto.INT8
    with pytest.raises(ModelError, match="INT8"):
        with_weights(model.SerializeToString())


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (503, "unavailable", AwayError),
        (429, "rate-limited", AwayError),
        (500, "internal", AwayError),
        (409, "lease-lost-error", OverError),
        (409, "job-conflict-error", RefusedError),
        (401, "unauthorized", RefusedError),
        (400, "table-error", RefusedError),
    ],
)
def test_the_answers_of_a_server_are_three_kinds_of_bad_news(status, kind, expected):
    busy = problem(status, kind, headers=["Retry-After: 7"])
    with Misbehaving([busy]) as there, Server(there.url, worker="w") as server:
        with pytest.raises(expected) as caught:
            server.heartbeat("job.1")
        if expected is AwayError:
            assert caught.value.later_s == 7.0


def test_a_proxys_page_is_no_reason_to_fall_over():
    page = answer(b"<html>", status="404 Not Found")
    with (
        Misbehaving([page]) as there,
        Server(there.url, worker="w") as server,
        pytest.raises(RefusedError, match="HTTP status 404"),
    ):
        server.heartbeat("job.1")


def test_a_connection_that_ends_is_a_server_that_is_away():
    with (
        Misbehaving([CLOSE]) as there,
        Server(there.url, worker="w") as server,
        pytest.raises(AwayError, match="does not answer"),
    ):
        server.heartbeat("job.1")


def test_rows_and_a_token_go_to_no_other_host():
    with Misbehaving([answer()]) as other:
        moved = answer(b"", status="307 X", headers=[f"Location: {other.url}/x"])
        with Misbehaving([moved]) as own, Server(own.url, worker="w", token="ghl_x") as server:
            with pytest.raises(RefusedError, match="redirects to"):
                server.post_rows("job.1", b"rows")
            assert own.requests[0].headers["authorization"] == "Bearer ghl_x"
        assert not other.requests


@pytest.mark.parametrize("url", ["", "localhost:8765", "ftp://host", "http://"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(InputError, match="URL"):
        Server(url, worker="w")


def test_a_token_is_not_sent_where_others_could_read_it(monkeypatch):
    monkeypatch.delenv("GHARIAL_PLAIN_TOKEN", raising=False)
    with pytest.raises(InputError, match="everybody on the way"):
        Server("http://far.example:8765", worker="w", token="ghl_secret")
    for url in ("https://far.example", "http://127.0.0.1:8765", "http://localhost:8765"):
        Server(url, worker="w", token="ghl_secret").close()
    monkeypatch.setenv("GHARIAL_PLAIN_TOKEN", "1")
    Server("http://far.example:8765", worker="w", token="ghl_secret").close()


def test_journal_lines_are_json(tmp_path):
    """What the kill benchmark reads from a worker's disk."""
    device = FakeDevice()
    with Journal(tmp_path / "j", device.environment) as journal:
        journal.add_row(parse_config(TEXT), device.measure(parse_config(TEXT), run_id=""))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "j").read_bytes().splitlines()]
    assert kinds == ["header", "conv"]
