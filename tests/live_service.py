"""The service on a real socket: uvicorn in a thread, on a database of its own."""

import socket
import threading
import time
from contextlib import contextmanager

import httpx

from latency_model.service.api.app import create_app
from latency_model.service.serving import server_of
from latency_model.service.settings import Settings
from latency_model.service.store.database import open_database
from latency_model.service.store.tokens import create_token


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Live:
    """A service that answers at ``url``; ``client`` has a token for everything."""

    def __init__(self, folder, port, **given):
        self.settings = Settings(
            database_url=f"sqlite:///{folder}/service.db",
            cache_dir=folder / "cache",
            port=port,
            import_shipped=False,
            **given,
        )
        self.database = open_database(self.settings.database_url)
        self.database.migrate()
        self.url = f"http://127.0.0.1:{port}"
        self.token = create_token(self.database, "all", ["admin"])[1]
        self.client = self.client_of(self.token)
        self.server, self.thread = None, None

    def client_of(self, token):
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {token}"} if token else {}, timeout=30
        )

    def start(self):
        self.server = server_of(create_app(self.settings, self.database), self.settings)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        deadline = time.monotonic() + 60
        while not self.server.started:
            assert self.thread.is_alive() and time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self):
        if self.thread is not None:
            self.server.should_exit = True
            self.thread.join(timeout=60)
            assert not self.thread.is_alive()
            self.thread = None

    def submit(self, configs, **given):
        answer = self.client.post("/v1/jobs", json={"configs": list(configs), **given})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def job(self, job_id):
        return self.client.get(f"/v1/jobs/{job_id}").json()


@contextmanager
def live_service(folder, *, port=None, **given):
    """Start a service in ``folder`` and yield it."""
    live = Live(folder, port or free_port(), **given)
    live.start()
    try:
        yield live
    finally:
        live.client.close()
        live.stop()
        live.database.close()
