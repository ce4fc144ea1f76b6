"""Read a file of whole networks that were measured: what a network correction is fitted on."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latency_model.errors import InputError
from latency_model.network import NetworkCost
from latency_model.networks.spec import network_of_spec

__all__ = ["MeasuredNetwork", "family_of", "read_networks"]

_GZIP = b"\x1f\x8b"
# The words before the first number or size, and a version.
_FAMILY = re.compile(r"(?:wide_)?[a-z]+(?=\d|_|$)(?:_v\d+)?")
_SAME = {"mobilenet": "mobilenet_v2"}
_BASIC = ("resnet18", "resnet34", "resnet_basic")


@dataclass(frozen=True)
class MeasuredNetwork:
    """A whole network with its measured latency and, where it was traced, its kernels.

    ``measured_us`` is the median, ``p10_us`` and ``p90_us`` are quantiles of the samples. ``trace`` has
    (kernel name, microseconds) in execution order and is empty without a trace. ``family`` is what networks
    of one architecture share: the unit that is held out when an error is estimated.
    """

    name: str
    family: str
    network: NetworkCost
    batch: int
    measured_us: float
    p10_us: float
    p90_us: float
    trace: tuple[tuple[str, float], ...] = field(default=())

    @property
    def kernel_sum_us(self) -> float:
        """The sum of the traced kernels, 0 without a trace."""
        return math.fsum(us for _, us in self.trace)


def read_networks(path: Path | str) -> tuple[MeasuredNetwork, ...]:
    """Return the networks of a JSON file, plain or compressed with gzip.

    The file is a list of objects with ``spec`` (see ``network_of_spec``), ``e2e_us``, and as far as known
    ``name``, ``p10_us``, ``p90_us`` and ``trace``, a list of [kernel name, microseconds]. Raises ``InputError``
    that names the file and the entry for anything else.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        entries = json.loads(gzip.decompress(data) if data.startswith(_GZIP) else data)
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}; give a file of measured networks") from error
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"cannot read {path} as JSON ({error}); give a file of measured networks") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} is not a list of measured networks; see the documentation of --networks")
    return tuple(_network(entry, f"{path}, network {place}") for place, entry in enumerate(entries, 1))


def family_of(spec: Mapping[str, Any], name: str = "") -> str:
    """Return the family of a described network: its architecture without depth and width.

    A residual network's includes its block. A model of a library and the description of the same architecture
    are one family.

    >>> family_of({"model": "torchvision:wide_resnet50_2"})
    'wide_resnet'
    """
    if "model" not in spec:
        family = str(spec.get("family", name))
        # What is described as a mobilenet is made of the second version's blocks.
        return f"{family}-{spec['block']}" if "block" in spec else _SAME.get(family, family)
    plain = str(spec["model"]).rpartition(":")[2].lower()
    found = _FAMILY.match(plain)
    family = found[0] if found else plain
    if family == "resnet":
        return f"resnet-{'basic' if plain.startswith(_BASIC) else 'bottleneck'}"
    return family


def _network(entry: Any, where: str) -> MeasuredNetwork:
    if not isinstance(entry, dict) or not isinstance(entry.get("spec"), dict):
        raise InputError(f"{where} has no description; every network needs a spec and an e2e_us")
    spec = entry["spec"]
    name = str(entry.get("name") or spec.get("model") or spec.get("family"))
    where = f"{where} ({name})"
    measured = _positive(entry.get("e2e_us"), where, "e2e_us")
    low, high = (_positive(entry.get(key, measured), where, key) for key in ("p10_us", "p90_us"))
    if not low <= high:
        raise InputError(f"{where} has a p10_us of {low} above its p90_us of {high}; correct the file")
    trace = entry.get("trace") or []
    try:
        kernels = tuple((str(kernel), float(us)) for kernel, us in trace)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} has a trace that is not a list of [kernel, microseconds]") from error
    if not all(math.isfinite(us) and us >= 0 for _, us in kernels):
        raise InputError(f"{where} has a kernel whose time is not a positive number; correct the file")
    try:
        network = network_of_spec(spec, name=name)
    except InputError as error:
        raise type(error)(f"{where}: {error}") from error
    batch = network.sites[0].shape.batch
    return MeasuredNetwork(name, family_of(spec, name), network, batch, measured, low, high, kernels)


def _positive(value: Any, where: str, key: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise InputError(f"{where} has {key} {value!r} instead of a positive number of microseconds")
    return float(value)
