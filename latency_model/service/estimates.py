"""Estimates of networks, as ``gharial estimate --json`` gives them; those that were asked for lately are kept."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from latency_model.errors import InputError, ModelError, TableError
from latency_model.network import NetworkCost
from latency_model.network_json import network_to_json
from latency_model.service.aligned import aligned
from latency_model.service.api.problems import NotMeasured
from latency_model.service.catalog import Catalog
from latency_model.service.harvesting import Harvesters
from latency_model.service.store.rows import EnvironmentInfo

if TYPE_CHECKING:
    from latency_model.estimate import Estimate
    from latency_model.model import LatencyModel

__all__ = ["Answer", "Asked", "Estimates", "estimated"]

_KEPT = 512
_KEPT_BYTES = 128 << 20
_NETWORKS = 256
_TENSORRT = "tensorrt"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a network besides itself."""

    environment: str
    name: str = "model.onnx"
    batch: int | None = None
    precision: str | None = None
    confidence: float = 0.9
    family: str | None = None
    explain: bool = False
    channels: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON of an estimate, the revision of the table it rests on, and whether it was there already."""

    body: bytes
    revision: int
    kept: bool = False


@dataclass(eq=False)
class Estimates:
    """Estimates ONNX models and networks with the models of ``catalog``."""

    catalog: Catalog
    harvesters: Harvesters
    _answers: OrderedDict[tuple[Any, ...], Answer] = field(default_factory=OrderedDict, init=False)
    _networks: OrderedDict[tuple[Any, ...], NetworkCost] = field(default_factory=OrderedDict, init=False)
    _bytes: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    async def of_onnx(self, skeleton: bytes, asked: Asked) -> Answer:
        """Return the estimate of the model whose skeleton is given; see ``estimated``."""
        served = self.catalog.of(asked.environment)
        digest = hashlib.sha256(skeleton).digest()
        found = self._kept((digest, asked, _moment(served.info)))
        if found is not None:
            return found
        fitted = await run_in_threadpool(self.catalog.model, asked.environment)
        place = (digest, asked.batch, asked.precision, fitted.layout)
        network = self._networks.get(place)
        if network is None:
            network = await self.harvesters.harvest(
                skeleton, batch=asked.batch, precision=asked.precision, layout=fitted.layout
            )
            self._networks[place] = network
            while len(self._networks) > _NETWORKS:
                self._networks.popitem(last=False)
        body = await run_in_threadpool(_body, fitted.model, network, asked)
        return self._keep(digest, asked, fitted.info, body)

    def of_network(
        self, network: NetworkCost, asked: Asked, counts: Mapping[str, int] | None = None
    ) -> Answer:
        """Return the estimate of a network that was harvested elsewhere, at channel ``counts``; blocks."""
        text = json.dumps([network_to_json(network), counts], separators=(",", ":"), sort_keys=True).encode()
        digest = hashlib.sha256(text).digest()
        found = self._kept((digest, asked, _moment(self.catalog.of(asked.environment).info)))
        if found is not None:
            return found
        fitted = self.catalog.model(asked.environment)
        return self._keep(digest, asked, fitted.info, _body(fitted.model, network, asked, counts))

    def _kept(self, key: tuple[Any, ...]) -> Answer | None:
        with self._lock:
            found = self._answers.get(key)
            if found is None:
                return None
            self._answers.move_to_end(key)
        return replace(found, kept=True)

    def _keep(self, digest: bytes, asked: Asked, info: EnvironmentInfo, body: bytes) -> Answer:
        key, answer = (digest, asked, _moment(info)), Answer(body, info.revision)
        with self._lock:
            if key not in self._answers:
                self._answers[key] = answer
                self._bytes += len(answer.body)
            while self._answers and (len(self._answers) > _KEPT or self._bytes > _KEPT_BYTES):
                self._bytes -= len(self._answers.popitem(last=False)[1].body)
        return answer


def _moment(info: EnvironmentInfo) -> tuple[int, float]:
    return info.revision, info.changed_at


def _body(
    model: LatencyModel, network: NetworkCost, asked: Asked, counts: Mapping[str, int] | None = None
) -> bytes:
    return json.dumps(estimated(model, network, asked, counts), allow_nan=False).encode()


def estimated(
    model: LatencyModel, network: NetworkCost, asked: Asked, counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return what ``gharial estimate --json``, or ``gharial explain --json``, prints of ``network`` at ``counts``.

    Raises ``NotMeasured`` when the table lacks a convolution, ``InputError`` for what cannot be asked.
    """
    from latency_model.explain import explanation

    shapes = [site.shape for site in network.sites]
    if not shapes:
        raise ModelError(f"{asked.name} has no 2-D convolution, so a table says nothing of it")
    try:
        found = model.estimate(network, counts, confidence=asked.confidence, family=asked.family)
    except TableError as error:
        raise NotMeasured(f"{error}; or let the service get them measured: POST /v1/jobs") from error
    except (OverflowError, ZeroDivisionError, ValueError) as error:
        raise InputError(f"the sizes of {asked.name} are those of no network ({error})") from error
    if _TENSORRT in model.table.environment.runtime:
        found = replace(
            found, flags=(*found.flags, "fused as ONNX Runtime does it; --engine takes what TensorRT fuses")
        )
    said = explanation(model, found).to_json() if asked.explain else found.to_json()
    if asked.channels:
        said["channels"] = aligned(model, network)
    return {**_about(asked.name, found), **said}


def _about(name: str, found: Estimate) -> dict[str, Any]:
    shapes = [site.shape for site in found.sites if site.shape is not None]
    precisions = ", ".join(sorted({shape.precision for shape in shapes}))
    return {"model": name, "batch": shapes[0].batch, "precision": precisions}
