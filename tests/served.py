"""`gharial serve` in a process of its own, on a free port and a database of its own."""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from latency_model.service.store.database import open_database
from latency_model.service.store.tokens import create_token

ROOT = Path(__file__).parents[1]


class Served:
    def __init__(self, url, database_url):
        self.url, self._database_url = url, database_url

    def token(self, *scopes):
        database = open_database(self._database_url)
        try:
            return create_token(database, "-".join(scopes) or "none", list(scopes))[1]
        finally:
            database.close()


@contextmanager
def served(folder, **settings):
    """Start `gharial serve` with its shipped tables in ``folder``, yield it, and stop it as its user would."""
    url = f"sqlite:///{folder}/service.db"
    given = {f"GHARIAL_{name.upper()}": str(value) for name, value in settings.items()}
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "GHARIAL_DATABASE_URL": url,
        "GHARIAL_CACHE_DIR": str(folder / "server-cache"),
        **given,
    }
    log = folder / "serve.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "gharial", "serve", "--port", "0"]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=folder)
        try:
            yield Served(_address(process, log), url)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _address(process, log):
    until = time.monotonic() + 120
    while time.monotonic() < until:
        said = log.read_text(errors="replace")
        if found := re.search(r"serving on (http://[\w.:]+)", said):
            return found[1]
        assert process.poll() is None, said
        time.sleep(0.05)
    raise AssertionError(f"no server after two minutes: {log.read_text(errors='replace')}")
