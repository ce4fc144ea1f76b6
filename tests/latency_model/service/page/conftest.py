"""A real Chromium on a real `gharial serve`; what the page does wrong in it fails the test that made it do it."""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# An answer of 4xx, which the page says in a sentence, is an error in the console too.
_EXPECTED = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")


@pytest.fixture(scope="session")
def service(tmp_path_factory):
    """Return a running service with two devices."""
    from page_things import FAST, SLOW, served, staircase_table

    tables = [staircase_table(FAST, 8, 1.0), staircase_table(SLOW, 4, 2.0)]
    with served(tmp_path_factory.mktemp("service"), tables) as found:
        yield found


@pytest.fixture(scope="session")
def private_service(tmp_path_factory):
    """Return a running service that nobody may read without a token."""
    from page_things import FAST, served, staircase_table

    with served(tmp_path_factory.mktemp("private"), [staircase_table(FAST, 8, 1.0)], private=True) as found:
        yield found


@pytest.fixture(scope="session")
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
        self.errors, self.requests = [], []

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


@pytest.fixture
def new_page(browser, watch):
    """Return a function that opens a page with options of a browser context; it is judged at the end."""
    contexts = []

    def make(**options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        context.set_default_timeout(60_000)
        context.add_init_script(
            "window.violations = [];"
            "addEventListener('securitypolicyviolation', e => window.violations.push(e.violatedDirective + ' ' + e.blockedURI));"
        )
        contexts.append(context)
        page = context.new_page()
        watch.page(page)
        return page

    yield make
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.violations") == []
            assert page.evaluate("window.hacked") is None
        context.close()
    assert watch.errors == []


@pytest.fixture
def page(new_page):
    """Return a page of a desktop's size in light colours."""
    return new_page(color_scheme="light")
