"""What a server answers, as the objects that the same question gives locally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from latency_model.lookup import LookupRow
from latency_model.ops import Config, parse_config

if TYPE_CHECKING:
    from latency_model.estimate import Estimate, SiteCost

__all__ = ["Staircase", "estimate_from_json", "row_from_json"]


@dataclass(frozen=True, slots=True)
class Staircase:
    """The measured latencies of a convolution's site over one channel count, the other being ``at``.

    ``envelope_us`` is what padding with zero channels reaches, ``efficient`` the counts that no larger one matches
    within 2 %, ``others`` the counts of the other side that were measured. Of a depthwise convolution both change.
    """

    config: str
    axis: str
    at: int
    counts: tuple[int, ...]
    latency_us: tuple[float, ...]
    low_us: tuple[float, ...]
    high_us: tuple[float, ...]
    envelope_us: tuple[float, ...]
    efficient: tuple[int, ...]
    others: tuple[int, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Staircase:
        """Return what the server says of a site."""
        lists = ("counts", "latency_us", "low_us", "high_us", "envelope_us", "efficient", "others")
        return cls(
            str(data["config"]), str(data["axis"]), int(data["at"]), *(tuple(data[name]) for name in lists)
        )


def row_from_json(data: Mapping[str, Any]) -> LookupRow | None:
    """Return one row, None where nothing was measured."""
    if not data["found"]:
        return None
    return LookupRow(float(data["latency_us"]), float(data["low_us"]), float(data["high_us"]))


def estimate_from_json(data: Mapping[str, Any]) -> Estimate:
    """Return the estimate whose ``to_json`` is ``data``, to the last bit; what else ``data`` has is passed over.

    ``kernels`` is not in it, and is 0 as for every model without prices of kernels.
    """
    from latency_model.corrections import correction_from_json
    from latency_model.estimate import Estimate

    family = data["family"]
    return Estimate(
        latency_us=float(data["latency_us"]),
        low_us=float(data["low_us"]),
        high_us=float(data["high_us"]),
        raw_sum_us=float(data["raw_sum_us"]),
        confidence=float(data["confidence"]),
        sites=_parts(data["sites"]),
        unpriced=MappingProxyType({str(name): int(count) for name, count in data["unpriced"].items()}),
        flags=tuple(map(str, data["flags"])),
        correction=correction_from_json(data["correction"]),
        ops=_parts(data["ops"]),
        kernels=int(data.get("kernels", 0)),
        family=None if family is None else str(family),
    )


def _parts(listed: Sequence[Mapping[str, Any]]) -> tuple[SiteCost, ...]:
    from latency_model.estimate import SiteCost

    found = []
    for part in listed:
        shape = _config(text := str(part["shape"]))
        found.append(
            SiteCost(
                str(part["name"]),
                shape,
                float(part["latency_us"]),
                str(part["source"]),
                "" if shape is not None else text,
                float(part["corrected_us"]),
            )
        )
    return tuple(found)


def _config(text: str) -> Config | None:
    """Return the configuration that ``text`` is, None for the description of a kernel without one."""
    if "->" not in text and not text.startswith("op "):
        return None
    return parse_config(text)
