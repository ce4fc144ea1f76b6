"""A few processes that read ONNX models, each restarted when it dies or takes too long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import struct
import sys
from dataclasses import dataclass, field
from typing import Any

from latency_model.errors import ModelError
from latency_model.network import NetworkCost
from latency_model.network_json import network_from_json
from latency_model.service.api.problems import Busy

__all__ = ["Harvesters"]

_LENGTHS = struct.Struct(">II")
_LENGTH = struct.Struct(">I")
_WAITING = 64


@dataclass(eq=False)
class Harvesters:
    """Harvests ONNX models in ``workers`` processes; ``timeout_s`` is for one model, ``memory_bytes`` for one process.

    A process that crashes or runs out of time costs the one request that it worked on.
    """

    workers: int = 1
    timeout_s: float = 20.0
    memory_bytes: int = 4 << 30
    depth: int = 48
    restarts: int = field(default=0, init=False)
    _idle: list[asyncio.subprocess.Process] = field(default_factory=list, init=False)
    _slots: asyncio.Semaphore | None = field(default=None, init=False)
    _waiting: int = field(default=0, init=False)

    async def harvest(
        self, model: bytes, *, batch: int | None, precision: str | None, layout: str
    ) -> NetworkCost:
        """Return what an ONNX model's bytes hold; ``ModelError`` when they cannot be harvested.

        Raises ``Busy`` when too many wait already.
        """
        if self._slots is None:
            self._slots = asyncio.Semaphore(self.workers)
        if self._waiting >= _WAITING:
            raise Busy(
                "too many ONNX models wait to be read; send it again in a moment",
                headers={"Retry-After": "2"},
            )
        request = {"batch": batch, "precision": precision, "layout": layout, "depth": self.depth}
        self._waiting += 1
        try:
            async with self._slots:
                answer = await self._ask(json.dumps(request).encode(), model)
        finally:
            self._waiting -= 1
        if "error" in answer:
            raise ModelError(str(answer["error"]))
        return network_from_json(answer["network"])

    async def start(self) -> None:
        """Start one process now, so that the first model does not wait for it."""
        if not self._idle:
            self._idle.append(await self._new())

    async def close(self) -> None:
        """End the processes that wait."""
        for process in self._idle:
            await _end(process)
        self._idle.clear()

    async def _ask(self, request: bytes, model: bytes) -> dict[str, Any]:
        process = self._idle.pop() if self._idle else await self._new()
        healthy = False
        try:
            async with asyncio.timeout(self.timeout_s):
                answer = await _exchange(process, request, model)
            healthy = True
            return answer
        except TimeoutError as error:
            raise ModelError(
                f"reading the ONNX model took longer than the {self.timeout_s:g} s that one may take"
            ) from error
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            raise ModelError(
                "the ONNX model could not be read: its reader crashed; export it again"
            ) from error
        finally:
            if healthy:
                self._idle.append(process)
            else:
                self.restarts += 1
                await asyncio.shield(_end(process))

    async def _new(self) -> asyncio.subprocess.Process:
        environment = {**os.environ, "GHARIAL_HARVEST_MEMORY_BYTES": str(self.memory_bytes)}
        environment.setdefault("OMP_NUM_THREADS", "1")
        # What decides where modules come from goes along, however this process found them.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "latency_model.service.harvester",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )


async def _exchange(process: asyncio.subprocess.Process, request: bytes, model: bytes) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(_LENGTHS.pack(len(request), len(model)) + request)
    process.stdin.write(model)
    await process.stdin.drain()
    size = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))[0]
    answer: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
    return answer


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
