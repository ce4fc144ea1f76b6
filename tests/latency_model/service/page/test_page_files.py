"""What the server sends for the page, without a browser."""

import asyncio
import re

import httpx
import pytest
from fastapi import FastAPI

from latency_model.service.api import page
from latency_model.service.api.problems import add_handlers


def ask(path, method="GET", **headers):
    app = FastAPI()
    add_handlers(app)
    app.include_router(page.router)

    async def answer():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.request(method, path, headers=headers)

    return asyncio.run(answer())


@pytest.fixture(scope="module")
def text():
    return ask("/").text


def addresses(text):
    return re.findall(r'(?:src|href|content)="(/assets/[^"]+)"', text)


def test_every_file_that_the_document_names_is_there(text):
    found = addresses(text)
    assert {name.rsplit("/", 1)[1] for name in found} >= {"main.js", "style.css", "plotly.min.js", "icon.svg"}
    for address in found:
        assert ask(address).status_code == 200, address


def test_every_file_that_a_script_imports_is_there(text):
    base = next(a for a in addresses(text) if a.endswith("main.js")).rsplit("/", 1)[0]
    seen, waiting = set(), ["main.js"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        answer = ask(f"{base}/{name}")
        assert answer.status_code == 200, name
        waiting += re.findall(r'from "\./([^"]+)"', answer.text)
    assert seen >= {"main.js", "dom.js", "api.js", "chart.js", "layers.js", "jobs.js"}


def test_the_policy_lets_nothing_in_from_elsewhere_and_nothing_inline(text):
    policy = ask("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.findall(r"<script(?![^>]*\ssrc=)", text)
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=", text)
    assert not re.findall(r"https?://", text)


def test_files_are_kept_for_a_year_and_the_document_is_not(text):
    assert ask("/").headers["cache-control"] == "no-cache"
    for address in addresses(text):
        assert ask(address).headers["cache-control"] == "public, max-age=31536000, immutable"
        assert re.fullmatch(r"/assets/[0-9a-f]{16}/[a-z.]+", address)


def test_a_document_that_is_known_is_not_sent_again():
    first = ask("/")
    again = ask("/", **{"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert "content-security-policy" in again.headers


def test_compressed_and_plain_are_the_same(text):
    plotly = next(a for a in addresses(text) if a.endswith("plotly.min.js"))
    packed, plain = ask(plotly, **{"accept-encoding": "gzip"}), ask(plotly, **{"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert packed.content == plain.content
    assert int(packed.headers["content-length"]) < 0.5 * int(plain.headers["content-length"])


@pytest.mark.parametrize(
    "path",
    [
        "/assets/0123456789abcdef/main.js",
        "/assets/0123456789abcdef/plotly.min.js",
        "/assets/BASE/index.html.jinja",
        "/assets/BASE/nothing.js",
        "/assets/BASE/..%2f..%2fsettings.py",
    ],
)
def test_there_is_no_other_file(path, text):
    base = next(a for a in addresses(text) if a.endswith("main.js")).split("/")[2]
    answer = ask(path.replace("BASE", base))
    assert answer.status_code == 404
    assert "detail" in answer.json() or answer.json()["error"]["type"] == "not-found"


def test_head_answers_without_a_body():
    answer = ask("/", method="HEAD")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")


def test_the_page_is_no_part_of_the_interface():
    app = FastAPI()
    app.include_router(page.router)
    assert app.openapi()["paths"] == {}
