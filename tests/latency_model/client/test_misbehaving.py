"""Servers that are slow, cut off, absent, busy, lying, or somewhere else; and what that becomes."""

import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import httpx
import pytest
from misbehaving import CLOSE, Misbehaving, answer, problem

from latency_model import Client, errors
from latency_model.errors import InputError, ModelError, ServerError, TableError

CONFIG = "1x16x8x8 ->16 k3 s1 p1 g1 conv fp32 nchw"
KEY = "0123456789ab"
FOUND = {"config": CONFIG, "latency_us": 0.1 + 0.2, "low_us": 0.25, "high_us": 1.0, "found": True}
HEALTHY = answer({"status": "ok", "version": "9.9"})


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Wait for nothing between tries, and return for how long it would have been."""
    found = []
    monkeypatch.setattr("latency_model.client.transport.time.sleep", found.append)
    return found


def asked(*script, **given):
    """Look one configuration up at a server with this script; return the row or the error, and the server."""
    with Misbehaving(list(script)) as server, Client(server.url, **{"timeout_s": 5.0, **given}) as client:
        try:
            return client.lookup(CONFIG, KEY), server
        except errors.GharialError as error:
            return error, server


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


# Redirects, and where a token goes.


def moved(url, status="307 X"):
    return answer(b"", status=status, headers=[f"Location: {url}"])


def test_a_token_goes_to_its_server_alone(monkeypatch):
    monkeypatch.setenv("GHARIAL_TOKEN", " ghl_secret\n")
    with (
        Misbehaving([answer(FOUND)]) as other,
        Misbehaving([moved(f"{other.url}/x"), moved("/y"), answer(FOUND)]) as own,
    ):
        with Client(own.url) as client:
            assert client.lookup(CONFIG, KEY) and client.lookup(CONFIG, KEY)
        assert [r.headers.get("authorization") for r in own.requests] == ["Bearer ghl_secret"] * 3
        assert [r.target for r in other.requests] == ["/x"]
        assert "authorization" not in other.requests[0].headers
        other.script[0] = problem(401, "unauthorized", "a token is needed")
        own.script[:] = [moved(f"{other.url}/x")]
        with Client(own.url) as client, pytest.raises(InputError, match="not sent to"):
            client.lookup(CONFIG, KEY)


def test_what_is_sent_goes_to_no_other_host():
    with Misbehaving([answer([FOUND])]) as other, Misbehaving([moved(f"{other.url}/x")]) as own:
        with Client(own.url) as client, pytest.raises(ServerError, match="redirects to"):
            client.lookup_many([CONFIG], KEY)
        assert not other.requests
        own.script[:] = [moved("/v1/there"), answer([FOUND])]
        with Client(own.url) as client:
            assert client.lookup_many([CONFIG], KEY)[0].latency_us == FOUND["latency_us"]
        assert json.loads(own.requests[-1].body)["configs"] == [CONFIG]


def test_a_file_is_sent_whole_each_time(tmp_path, waits):
    path = tmp_path / "table.parquet"
    path.write_bytes(bytes(range(256)) * 4096)
    with Misbehaving([moved("/v1/there"), CLOSE, moved("/v1/there"), answer({"new": 1})]) as server:
        with Client(server.url) as client:
            assert client.import_table(path) == {"new": 1}
        assert [request.target for request in server.requests] == ["/v1/tables", "/v1/there"] * 2
        assert all(request.body == path.read_bytes() for request in server.requests)
    assert len(waits) == 1


def test_a_redirect_that_takes_away_the_encryption():
    asked = []

    def answered(request):
        asked.append(request.url)
        return httpx.Response(307, headers={"Location": "http://gpu-box/x"})

    with Client("https://gpu-box", token="ghl_x") as client:
        client._transport._http._client.close()
        client._transport._http._client = httpx.Client(transport=httpx.MockTransport(answered))
        with pytest.raises(ServerError, match="not encrypted"):
            client.lookup(CONFIG, KEY)
    assert len(asked) == 1


@pytest.mark.parametrize(
    "place",
    ["http://x:99999/", "file:///etc/passwd", "ftp://x/", "//", "http://u:p@127.0.0.1/", "http://a b/"],
)
def test_a_redirect_to_no_server(place):
    found, _ = asked(moved(place))
    assert isinstance(found, ServerError)


def test_redirects_end():
    found, server = asked(moved("/again"))
    assert isinstance(found, ServerError) and "6 times" not in str(found)
    assert len(server.requests) == 6


def test_a_token_is_not_sent_where_anybody_can_read_it(monkeypatch):
    for url in ("http://gpu-box:8765", "http://10.0.0.7", "http://example.com"):
        with pytest.raises(InputError, match=r"GHARIAL_PLAIN_TOKEN"):
            Client(url, token="ghl_x")
        Client(url, token="ghl_x", plain_token=True).close()
        Client(url).close()
    for url in ("https://gpu-box", "http://localhost:1", "http://127.0.0.9", "http://[::1]:8765"):
        Client(url, token="ghl_x").close()
    monkeypatch.setenv("GHARIAL_TOKEN", "ghl_x")
    with pytest.raises(InputError):
        Client("http://gpu-box:8765")
    monkeypatch.setenv("GHARIAL_PLAIN_TOKEN", "1")
    Client("http://gpu-box:8765").close()


@pytest.mark.parametrize("token", ["ghl_a b", "ghl\r\nX: y", "geheim\u00e9"])
def test_a_token_that_is_none(token):
    with pytest.raises(InputError, match="characters"):
        Client("http://localhost", token=token)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8765",
        "ftp://x",
        "http://",
        "http://x:99999",
        "http://x:y",
        "http://me:pw@x",
        "http://a b",
        "http://[::1",
    ],
)
def test_what_is_no_url(url):
    with pytest.raises(InputError, match=r"URL"):
        Client(url)


def test_a_path_before_the_api_is_kept():
    for url in ("HTTP://Host:80/a/b?c=d", "http://host/a/b/"):
        with Client(url) as client:
            assert client.url == "http://host/a/b"
    with Misbehaving([answer(FOUND)]) as server, Client(server.url + "/gharial/") as client:
        client.lookup(CONFIG, KEY)
        assert server.requests[0].target.startswith("/gharial/v1/lookup?")


def test_a_proxy_is_taken_for_other_machines_and_not_for_this_one(monkeypatch):
    with Misbehaving([answer(FOUND)]) as proxy, Misbehaving([answer(FOUND)]) as own:
        for name in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.setenv(name, f"http://me:pw@127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        with Client("http://gpu-box.invalid:8765") as client:
            assert client.lookup(CONFIG, KEY)
        assert proxy.requests[0].target.startswith("http://gpu-box.invalid:8765/v1/lookup?")
        assert proxy.requests[0].headers["host"] == "gpu-box.invalid:8765"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6cHc="
        with Client(own.url) as client:
            assert client.lookup(CONFIG, KEY)
        assert len(proxy.requests) == 1
        assert "proxy-authorization" not in own.requests[0].headers


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
