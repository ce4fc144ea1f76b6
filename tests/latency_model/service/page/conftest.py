"""A real Chromium on a real `gharial serve`; what the page does wrong in it fails the test that made it do it."""

import os
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# An answer of 4xx, which the page says in a sentence, is an error in the console too.
_EXPECTED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Return a running service with two devices."""
    from page_things import FAST, SLOW, served, staircase_table

    tables = [staircase_table(FAST, 8, 1.0), staircase_table(SLOW, 4, 2.0)]
    with served(tmp_path_factory.mktemp("service"), tables) as found:
        yield found


@pytest.fixture(scope="module")
def private_service(tmp_path_factory):
    """Return a running service that nobody may read without a token."""
    from page_things import FAST, served, staircase_table

    with served(tmp_path_factory.mktemp("private"), [staircase_table(FAST, 8, 1.0)], private=True) as found:
        yield found


# Not longer than a module: while the driver is open its event loop runs in this thread, and no other one can.
@pytest.fixture(scope="module")
def browser():
    """Return a headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None or not Path(CHROMIUM).exists():
        pytest.skip("there is no Chromium on this machine")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield found
        found.close()


class Watch:
    """What a page must not do, as it happened."""

    def __init__(self):
        self.errors, self.requests, self.allowed = [], [], []

    def judge(self):
        """Fail for what no test allowed; only now, as the console's messages come when they come."""
        assert [error for error in self.errors if not any(text in error for text in self.allowed)] == []

    def page(self, page):
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        page.on("request", self._request)
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def _console(self, message):
        if message.type in ("error", "warning") and not _EXPECTED.match(message.text):
            self.errors.append(f"console: {message.text}")

    def _request(self, request):
        self.requests.append(request.url)
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            self.errors.append(f"request to {request.url}")


@pytest.fixture
def watch():
    """Return what pages that are opened by ``new_page`` did wrong."""
    return Watch()


_INIT = """
window.violations = [];
addEventListener("securitypolicyviolation", e => window.violations.push(`${e.violatedDirective} ${e.blockedURI}`));
"""


def _context(browser, **options):
    context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
    context.set_default_timeout(60_000)
    context.add_init_script(_INIT)
    return context


def _judge(page):
    assert page.evaluate("window.violations") == []
    assert page.evaluate("window.hacked") is None


@pytest.fixture
def new_page(browser, watch):
    """Return a function that opens a page with options of a browser context; it is judged at the end."""
    pages = []

    def make(**options):
        page = _context(browser, **options).new_page()
        pages.append(page)
        watch.page(page)
        return page

    yield make
    for page in pages:
        _judge(page)
        page.context.close()
    watch.judge()


@pytest.fixture(scope="module")
def context(browser):
    """Return the browser context that most tests share: so the browser compiles Plotly once."""
    found = _context(browser, color_scheme="light")
    yield found
    found.close()


@pytest.fixture
def page(context, watch):
    """Return a page of a desktop's size in light colours; it is judged at the end."""
    found = context.new_page()
    watch.page(found)
    yield found
    _judge(found)
    found.close()
    watch.judge()


@pytest.fixture
def wait():
    """Return a function that waits until an expression is true; Playwright's own is what the policy forbids."""

    def until(page, expression, seconds=60):
        deadline = time.monotonic() + seconds
        while not page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            page.wait_for_timeout(50)

    return until
