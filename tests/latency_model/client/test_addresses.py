"""Where requests go: redirects, proxies, what is no address, and which of them a token and a body follow."""

import json

import httpx
import pytest
from misbehaving import CLOSE, CONFIG, FOUND, KEY, Misbehaving, answer, asked, problem

from latency_model import Client
from latency_model.errors import InputError, ServerError

# Nobody waits between tries.
pytestmark = pytest.mark.usefixtures("waits")


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
