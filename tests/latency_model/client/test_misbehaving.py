"""Servers that are slow, cut off, absent, busy, lying, or somewhere else; and what that becomes."""

import itertools
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pytest
from misbehaving import CLOSE, CONFIG, FOUND, KEY, Misbehaving, answer, asked, problem

from latency_model import Client, errors
from latency_model.errors import InputError, ModelError, ServerError, TableError

# Nobody waits between tries.
pytestmark = pytest.mark.usefixtures("waits")
HEALTHY = answer({"status": "ok", "version": "9.9"})


def test_a_row_is_exact_and_the_connection_is_kept():
    with Misbehaving([answer(FOUND)]) as server, Client(server.url) as client:
        for _ in range(5):
            assert client.lookup(CONFIG, KEY).latency_us == 0.1 + 0.2
        assert (server.connections, len(server.requests)) == (1, 5)
        assert server.requests[0].target == (
            f"/v1/lookup?environment={KEY}&config=1x16x8x8%20-%3E16%20k3%20s1%20p1%20g1%20conv%20fp32%20nchw"
        )
        assert "authorization" not in server.requests[0].headers


def test_nobody_there(waits):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}") as client,
        pytest.raises(ServerError, match=r"does not answer .*refused"),
    ):
        client.lookup(CONFIG, KEY)
    assert len(waits) == 3
    assert all(0 < first < second * 4 for first, second in itertools.pairwise(waits))


@pytest.mark.parametrize(
    "trouble", [CLOSE, problem(502, ""), b"", answer(b"<html>", status="502 Bad Gateway")]
)
def test_what_passes_is_asked_again(trouble, waits):
    found, server = asked(trouble, trouble, answer(FOUND))
    assert found.latency_us == FOUND["latency_us"]
    assert len(server.requests) == 3 and len(waits) == 2


def test_what_does_not_pass_ends():
    found, server = asked(CLOSE)
    assert isinstance(found, ServerError) and len(server.requests) == 4
    found, server = asked(answer(b"<html>", status="502 Bad Gateway"))
    assert isinstance(found, ServerError) and "502" in str(found) and len(server.requests) == 4


def test_a_connection_that_the_server_ended_is_no_failure(waits):
    ended = threading.Event()

    def end(connection):
        connection.sendall(answer(FOUND))
        connection.shutdown(socket.SHUT_RDWR)
        ended.set()

    with Misbehaving([end, answer(FOUND)]) as server:
        with Client(server.url, retries=0) as client:
            assert client.lookup(CONFIG, KEY) and ended.wait(10) and client.lookup(CONFIG, KEY)
        assert server.connections == 2 and not waits


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_back(status, waits):
    busy = problem(status, "unavailable", headers=["Retry-After: 7"])
    found, server = asked(*[busy] * 9, answer(FOUND))
    assert found.latency_us == FOUND["latency_us"]
    assert len(server.requests) == 10  # more often than those that say nothing
    assert min(waits) >= 7


def test_when_to_come_back_may_be_a_date_or_nonsense(waits):
    date = formatdate(time.time() + 30, usegmt=True)
    asked(problem(429, "rate-limited", headers=[f"Retry-After: {date}"]), answer(FOUND))
    assert 25 < waits.pop() < 32
    asked(problem(429, "rate-limited", headers=["Retry-After: soon"]), answer(FOUND))
    assert waits.pop() < 1
    asked(problem(429, "rate-limited", headers=["Retry-After: -5"]), answer(FOUND))
    assert 0 < waits.pop() < 1


def test_patience_ends(waits):
    found, server = asked(problem(503, "unavailable", "being fitted", headers=["Retry-After: 3600"]))
    assert isinstance(found, ServerError) and "being fitted" in str(found)
    assert len(server.requests) == 1 and not waits


def slow(connection):
    threading.Event().wait(0.4)
    connection.sendall(answer(FOUND))


def drip(connection):
    for byte in answer(FOUND):
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.05)


def drip_body(connection):
    data = answer(FOUND)
    head = data.index(b"\r\n\r\n") + 4
    connection.sendall(data[:head])
    for byte in data[head:]:
        connection.sendall(bytes([byte]))
        threading.Event().wait(0.05)


@pytest.mark.parametrize("way", [slow, drip, drip_body])
def test_an_answer_has_a_time_to_be_whole(way):
    found, server = asked(way, timeout_s=0.2)
    assert isinstance(found, ServerError) and "within 0.2 s" in str(found)
    assert len(server.requests) == 1  # what is slow would only be slower the second time
    assert asked(slow)[0].latency_us == FOUND["latency_us"]


@pytest.mark.parametrize("length", [1000, "none-chunked"])
def test_a_truncated_answer_is_no_answer(length):
    cut = answer(FOUND, length=1000)
    if length == "none-chunked":
        cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{}"
    found, server = asked(lambda c: c.sendall(cut))
    assert isinstance(found, ServerError) and "broke off" in str(found)
    assert len(server.requests) == 4
    assert asked(lambda c: c.sendall(cut), answer(FOUND))[0].latency_us == FOUND["latency_us"]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        b"",
        b"[1",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        b'{"found": true}',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_makes_no_sense(body):
    found, _ = asked(answer(body), HEALTHY)
    assert isinstance(found, ServerError)
    assert "runs Gharial 9.9" in str(found)
    found, _ = asked(answer(body))
    assert "may be no Gharial server, or an older one" in str(found) or "is it a Gharial server" in str(found)


def test_garbage_instead_of_http():
    for garbage in (b"SSH-2.0-OpenSSH_9.2\r\n", b"\x00" * 100, b"HTTP/1.1 abc OK\r\n\r\n", b"A" * 100_000):
        found, _ = asked(lambda c, garbage=garbage: c.sendall(garbage))
        assert isinstance(found, ServerError), garbage[:10]


def test_an_answer_without_end(monkeypatch):
    monkeypatch.setattr("latency_model.client.http._MOST_BYTES", 1 << 20)

    def endless(connection):
        connection.sendall(answer(b"", length="none"))
        while True:
            connection.sendall(b" " * 65536)

    found, _ = asked(endless)
    assert isinstance(found, ServerError) and "more than" in str(found)


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "table-error", TableError),
        (400, "model-error", ModelError),
        (400, "budget-error", errors.BudgetError),
        (404, "not-measured", TableError),
        (404, "unknown-environment", TableError),
        (400, "something-new", InputError),
        (413, "too-large", InputError),
        (500, "internal", ServerError),
        (408, "timeout", ServerError),
        (409, "print", InputError),
    ],
)
def test_a_refusal_becomes_the_error_that_the_same_mistake_raises_here(status, kind, error):
    with Misbehaving([problem(status, kind, "a sentence")]) as server, Client(server.url) as client:
        with pytest.raises(error, match="a sentence") as caught:
            client.staircase(CONFIG, KEY)
        assert type(caught.value) is error
        assert caught.value.__notes__ == [f"request r-1 of {server.url}"]
        assert len(server.requests) == 1


def test_not_measured_is_no_row_and_another_404_is_an_error():
    assert asked(problem(404, "not-measured"))[0] is None
    found, _ = asked(problem(404, "unknown-environment", "no such"))
    assert isinstance(found, TableError)
    found, _ = asked(problem(404, "not-found"), HEALTHY)
    assert "runs Gharial 9.9" in str(found)
    found, _ = asked(answer(b"<html>no such page</html>", status="404 Not Found"))
    assert isinstance(found, ServerError)


def test_a_refused_token_says_where_it_comes_from():
    found, _ = asked(problem(401, "unauthorized", "this needs a token with the scope read"))
    assert isinstance(found, InputError) and "scope read" in str(found) and "GHARIAL_TOKEN" in str(found)


def test_a_refusal_before_the_body_is_sent_is_read(tmp_path):
    def refuse(connection):
        connection.sendall(problem(413, "too-large", "more than it takes", headers=["Connection: close"]))

    class Early(Misbehaving):
        def _request(self, connection):
            return self.requests.append(connection.recv(1000)) or "early"

    path = tmp_path / "large.parquet"
    path.write_bytes(b"x" * (8 << 20))
    with (
        Early([refuse]) as server,
        Client(server.url, retries=0) as client,
        pytest.raises((InputError, ServerError)),
    ):
        client.import_table(path)


def test_threads_share_a_client():
    with Misbehaving([answer(FOUND)]) as server, Client(server.url) as client:
        found = []
        threads = [
            threading.Thread(target=lambda: found.extend(client.lookup(CONFIG, KEY) for _ in range(20)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 160 and len(set(found)) == 1
        assert server.connections <= 16


def test_the_client_is_fetched_when_it_is_used_and_needs_nothing_of_the_service():
    code = (
        "import sys, latency_model, latency_model.cli; assert 'latency_model.client' not in sys.modules; "
        "latency_model.Client; import latency_model.client.tables, latency_model.client.estimates; "
        "print([m for m in ('httpx', 'fastapi', 'sqlalchemy', 'pydantic', 'torch', 'onnx', 'scipy', 'pandas') "
        "if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_without_httpx_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['httpx'] = None; import latency_model, latency_model.errors as errors\n"
        "try: latency_model.Client('http://x')\n"
        "except errors.DependencyError as error: print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "asking a server needs httpx; install it with: pip install 'gharial[client]'\n"
