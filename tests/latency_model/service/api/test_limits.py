"""Size, time and rate, on a real server where the connection itself matters."""

import socket
import time

import pytest

from latency_model.service.api.limits import COSTS, Rates


def exchange(port, *parts, pause=0.0, end=True, timeout=15):
    """Send ``parts`` and return all that comes back until the server closes, or nothing more comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as sock:
        try:
            for part in parts:
                sock.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return received(sock)


def received(sock):
    data = b""
    try:
        while part := sock.recv(65536):
            data += part
    except ConnectionResetError:
        pass
    return data


def chunked(path, sizes, extra=b""):
    yield b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + extra + b"\r\n"
    for size in sizes:
        yield b"%x\r\n" % size + bytes(size) + b"\r\n"
    yield b"0\r\n\r\n"


def test_a_bucket_fills_and_empties():
    rates = Rates(10.0, 200.0)
    assert rates.wait_s("a", 150.0, 0.0) == 0
    assert rates.wait_s("a", 100.0, 0.0) == 5.0
    assert rates.wait_s("b", 100.0, 0.0) == 0, "clients have buckets of their own"
    assert rates.wait_s("a", 100.0, 5.0) == 0
    assert rates.wait_s("a", 1.0, 5.0) > 0
    assert rates.wait_s("a", 200.0, 1e6) == 0, "never more than the burst"
    assert rates.wait_s("a", 1.0, 1e6) > 0


def test_every_cost_can_be_paid_and_no_limit_is_none():
    assert Rates(1.0, 1.0).wait_s("a", max(COSTS.values()), 0.0) == 0
    assert all(Rates(0.0, 1.0).wait_s("a", 1e9, 0.0) == 0 for _ in range(5))


def test_memory_of_many_clients_is_bounded():
    rates = Rates(1000.0, 2000.0)
    for number in range(25_000):
        rates.wait_s(f"client {number}", 1.0, number * 1e-6)
    assert len(rates._buckets) <= 10_001


def test_too_many_requests_are_told_when_to_come_back(new_client):
    client = new_client(rate_per_s=0.5, rate_burst=100)
    answers = [client.get("/healthz") for _ in range(103)]
    assert [a.status_code for a in answers[:100]] == [200] * 100
    assert answers[-1].status_code == 429
    assert answers[-1].json()["error"]["type"] == "rate-limited"
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_a_body_that_says_it_is_too_large_is_refused_unread(new_server):
    server = new_server(max_body_bytes=1000)
    head = b"POST /v1/lookup HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n"
    found = exchange(server.port, head)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in found
    assert b'"too-large"' in found


@pytest.mark.parametrize(
    "path", [b"/v1/lookup", b"/v1/estimate?environment=KEY", b"/v1/lookup/arrow?environment=KEY"]
)
def test_a_body_without_a_length_is_limited_too(new_server, table, path):
    server = new_server(max_body_bytes=1000, max_onnx_bytes=1000, max_arrow_bytes=1000)
    path = path.replace(b"KEY", table.environment.key.encode())
    found = exchange(
        server.port,
        *chunked(path, [600, 600, 600], b"Content-Type: application/json\r\nConnection: close\r\n"),
    )
    assert found.startswith(b"HTTP/1.1 413 "), found[:300]


def test_a_length_that_is_no_number_is_refused(new_server):
    server = new_server()
    for length in (b"-1", b"1e3", b"99999999999999999999999", b"abc"):
        found = exchange(
            server.port, b"POST /v1/lookup HTTP/1.1\r\nHost: x\r\nContent-Length: " + length + b"\r\n\r\n"
        )
        assert found.split(b" ")[1] in (b"400", b"413"), (length, found)


def test_who_sends_nothing_is_cut_off(new_server):
    server = new_server(header_timeout_s=0.3)
    assert exchange(server.port) == b""


def test_who_sends_headers_slowly_is_cut_off(new_server):
    server = new_server(header_timeout_s=0.5)
    start = time.monotonic()
    found = exchange(server.port, b"GET /healthz HTTP/1.1\r\n", *[b"X-A: b\r\n"] * 100, pause=0.05)
    assert time.monotonic() - start < 10
    assert found.startswith(b"HTTP/1.1 408 ") or found == b""


def test_blank_lines_do_not_keep_a_connection(new_server):
    server = new_server(header_timeout_s=0.5)
    start = time.monotonic()
    exchange(server.port, *[b"\r\n"] * 100, pause=0.05)
    assert time.monotonic() - start < 10


def test_endless_headers_are_cut_off(new_server):
    server = new_server(max_header_bytes=4096)
    found = exchange(
        server.port, b"GET /healthz HTTP/1.1\r\n", *[b"X-A: " + b"b" * 1000 + b"\r\n"] * 50, pause=0.01
    )
    assert found.startswith(b"HTTP/1.1 431 ") or found == b""
    whole = b"GET /healthz HTTP/1.1\r\nX-A: " + b"b" * 8000 + b"\r\n\r\n"
    assert exchange(server.port, whole).startswith(b"HTTP/1.1 431 ")
    assert server.client.get("/healthz").status_code == 200


def test_a_long_url_is_refused(new_server):
    server = new_server(max_header_bytes=4096)
    assert exchange(
        server.port, b"GET /v1/lookup?config=" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    ).startswith(b"HTTP/1.1 431 ")


def test_who_sends_a_body_slowly_is_cut_off(new_server, table):
    server = new_server(request_timeout_s=0.5)
    key = table.environment.key.encode()
    head = b"POST /v1/estimate?environment=" + key + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    start = time.monotonic()
    found = exchange(server.port, head, *[b"x"] * 100, pause=0.05)
    assert time.monotonic() - start < 10
    assert found.startswith(b"HTTP/1.1 408 "), found


def test_who_takes_no_answer_is_cut_off(new_server, table):
    server = new_server(send_timeout_s=0.5)
    key = table.environment.key
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        sock.settimeout(20)
        ask = f"GET /v1/environments/{key}/rows?format=json HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        sock.sendall(ask * 200)
        deadline = time.monotonic() + 15
        while server.server_state.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.server_state.connections


def test_more_connections_than_allowed_are_told(new_server):
    server = new_server(max_connections=5)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
    time.sleep(0.2)
    assert (
        exchange(server.port, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").split(b" ")[1]
        == b"503"
    )
    for sock in idle:
        sock.close()
    time.sleep(0.2)
    assert server.client.get("/healthz").status_code == 200


def test_pipelined_requests_are_answered_in_order(new_server, table):
    server = new_server()
    texts = [shape.text for shape in list(table)[:20]]
    asks = [
        f"GET /v1/lookup?environment={table.environment.key}&config={text.replace(' ', '+').replace('>', '%3E')}"
        " HTTP/1.1\r\nHost: x\r\n\r\n"
        for text in (t.replace("+", "%2B") for t in texts)
    ]
    found = exchange(
        server.port, "".join(asks).encode(), b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    places = [found.find(f'"config":"{text}"'.encode()) for text in texts]
    assert all(place > 0 for place in places)
    assert places == sorted(places)


def test_nonsense_is_no_request(new_server):
    server = new_server(header_timeout_s=1.0)
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 5000,
        b"GET \xff\xfe HTTP/1.1\r\n\r\n",
    ):
        found = exchange(server.port, data)
        assert found == b"" or found.split(b" ")[1] in (b"400", b"404", b"408", b"431"), found
    assert server.client.get("/healthz").status_code == 200


def test_a_client_that_goes_is_no_failure(new_server, table, caplog):
    server = new_server()
    key = table.environment.key.encode()
    head = b"POST /v1/estimate?environment=" + key + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(head + b"x" * 10)
        time.sleep(0.2)
    time.sleep(0.3)
    assert 'status="499"' in server.client.get("/metrics").text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_large_bodies_together_are_limited(new_server):
    server = new_server(max_body_bytes=100_000, max_buffered_bytes=150_000)
    head = b"POST /v1/lookup HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90001\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=15) as first:
        first.sendall(head + b" " * 90_000)
        time.sleep(0.3)
        assert exchange(server.port, head + b" " * 90_000).startswith(b"HTTP/1.1 503 ")
        first.sendall(b"x")
        assert first.recv(4096).startswith(b"HTTP/1.1 422 ")
    found = exchange(
        server.port, head.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n") + b" " * 90_001
    )
    assert found.startswith(b"HTTP/1.1 422 "), "what was answered holds nothing"
