"""A client of the service that submits jobs without a pause and remembers which were acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import httpx

__all__ = ["BACKLOG", "Load"]

BACKLOG = 6  # jobs that wait at most


class Load:
    """A client that submits jobs, each until it is acknowledged, and keeps a few waiting."""

    def __init__(self, url: str, token: str, rng: random.Random) -> None:
        self._client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=20)
        self._rng, self._end = rng, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: dict[str, list[str]] = {}
        self.again = 0  # requests that had to be sent more than once
        self.problems: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when the job at hand is acknowledged."""
        self._end.set()
        self._thread.join(timeout=300)
        assert not self._thread.is_alive()

    def states(self) -> Counter[str]:
        """Count the acknowledged jobs by state, as the server sees them."""
        found: dict[str, str] = {}
        for state in ("queued", "leased", "failed", "cancelled", "done"):
            page: list[dict[str, Any]] | None = None
            before: dict[str, str] = {}
            while page is None or len(page) == 1000:
                page = self._client.get("/v1/jobs", params={"state": state, "limit": 1000, **before}).json()
                found |= {job["id"]: state for job in page}
                before = {"before": page[-1]["id"]} if page else {}
        return Counter(found.get(job, "missing") for job in self.acknowledged)

    def _run(self) -> None:
        number = 0
        while not self._end.is_set():
            try:
                waiting = self._client.get("/v1/jobs", params={"state": "queued", "limit": BACKLOG}).json()
            except (httpx.HTTPError, ValueError):
                self._end.wait(0.1)
                continue
            if len(waiting) >= BACKLOG:
                self._end.wait(0.1)
                continue
            number += 1
            self._submit(f"job-{number}", self._configs(number))

    def _configs(self, number: int) -> list[str]:
        """Half of a job's configurations are its own, the others are likely to be another's too."""
        count = self._rng.randint(1, 60)
        own = [f"1x{8 + number}x8x8 ->{8 * n} k3 s1 p1 g1 conv fp32 nchw" for n in range(1, count + 1)]
        pool = [f"1x{8 * self._rng.randint(1, 20)}x4x4 ->8 k1 s1 p0 g1 conv fp32 nchw" for _ in range(count)]
        return [*own, *pool]

    def _submit(self, key: str, configs: list[str]) -> None:
        body = {
            "configs": configs,
            "wants": {"kind": "fake"},
            "priority": self._rng.randint(0, 2),
            "max_attempts": 50,
        }
        tries = 0
        while True:
            tries += 1
            try:
                answer = self._client.post("/v1/jobs", json=body, headers={"idempotency-key": key})
            except httpx.HTTPError:
                time.sleep(0.1)
                continue
            if answer.status_code >= 500:
                time.sleep(0.1)
                continue
            if answer.status_code not in (200, 201):
                self.problems.append(f"{key}: {answer.status_code} {answer.text[:200]}")
                return
            self.again += tries > 1
            self.acknowledged[answer.json()["id"]] = list(dict.fromkeys(configs))
            return
