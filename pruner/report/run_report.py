"""What a pruning run is reported as."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_model.errors import InputError

__all__ = ["FORMAT_VERSION", "GroupRow", "RunReport", "SiteRow", "Staircase"]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class GroupRow:
    """Channels of one group before and after; 0 after means removed.

    ``writers`` and ``readers`` are the layers that write and read them.
    """

    name: str
    before: int
    after: int
    writers: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One convolution: its latency before, and what the table predicts for the pruned one."""

    name: str
    before_us: float
    predicted_us: float


@dataclass(frozen=True, slots=True)
class Staircase:
    """Latency of one convolution over its channel count, and the count that the pruner chose.

    ``latency_us[i]`` belongs to ``counts[i]`` (rising). ``efficient`` are the counts after which the next
    step up begins: more channels at no more time are not to be had there.
    """

    title: str
    axis: str
    counts: tuple[int, ...]
    latency_us: tuple[float, ...]
    chosen: int
    efficient: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.latency_us) or not self.counts:
            raise InputError(
                f"a staircase needs one latency for each count, not {len(self.latency_us)} for "
                f"{len(self.counts)}"
            )
        if any(a >= b for a, b in zip(self.counts, self.counts[1:], strict=False)):
            raise InputError(f"the counts of the staircase {self.title!r} must rise")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """One pruning run: what was asked for, what was predicted, what was measured.

    Latencies are of one run of the whole batch, in microseconds; ratios are after divided by before;
    accuracies are top-1 in percent, None where no data was given; ``macs`` are of one batch. ``intervals``
    has (low, high) at 95 % by the name of the field it belongs to. ``latency_after_us`` and
    ``ratio_measured`` are None when the result was not timed. With a budget at a confidence, the latency is
    at most ``latency_bound_us`` with ``budget_confidence``, by the model's one-sided interval. ``precision`` is of
    the network as deployed and timed, ``trained_on`` where it was trained: cpu, or the model of the GPU.
    """

    method: str
    device: str
    runtime: str
    budget: str
    latency_before_us: float
    latency_after_us: float | None
    latency_predicted_us: float
    ratio_measured: float | None
    ratio_predicted: float
    accuracy_before: float | None
    accuracy_after: float | None
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    seconds: float
    model: str = ""
    data: str = ""
    batch: int = 1
    precision: str = "fp32"
    seed: int = 0
    trained_on: str = ""
    command: str = ""
    budget_target_us: float | None = None
    budget_confidence: float | None = None
    latency_bound_us: float | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    groups: tuple[GroupRow, ...] = ()
    blocks_removed: tuple[str, ...] = ()
    staircase: Staircase | None = None
    sites: tuple[SiteRow, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        intervals = {name: (float(low), float(high)) for name, (low, high) in self.intervals.items()}
        object.__setattr__(self, "intervals", intervals)
        object.__setattr__(self, "environment", dict(self.environment))
        object.__setattr__(self, "versions", dict(self.versions))
        if self.latency_before_us <= 0:
            raise InputError(f"the latency before pruning must be positive, not {self.latency_before_us}")
        if where := _not_finite(dataclasses.asdict(self)):
            raise InputError(f"a report holds finite numbers only, but {where} is not")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        data: dict[str, Any] = _plain(dataclasses.asdict(self))
        return {"format_version": FORMAT_VERSION, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunReport:
        """Return the report that ``to_json`` wrote; ``InputError`` for a missing or unknown field."""
        if not isinstance(data, Mapping):
            raise InputError("this file is no report; give the report.json of a run")
        fields = dict(data)
        if fields.pop("format_version", None) != FORMAT_VERSION:
            raise InputError(
                f"this report has not format {FORMAT_VERSION}; it is no report, or of a later version"
            )
        try:
            stairs = fields.pop("staircase", None)
            return cls(
                **{
                    **fields,
                    "groups": tuple(_group(row) for row in fields.get("groups", ())),
                    "sites": tuple(SiteRow(**row) for row in fields.get("sites", ())),
                    "blocks_removed": tuple(fields.get("blocks_removed", ())),
                    "notes": tuple(fields.get("notes", ())),
                    "staircase": None if stairs is None else _staircase(stairs),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"this report is damaged ({error}); make it again") from error


def _group(data: Mapping[str, Any]) -> GroupRow:
    layers = {side: tuple(data.get(side, ())) for side in ("writers", "readers")}
    return GroupRow(**{**data, **layers})


def _staircase(data: Mapping[str, Any]) -> Staircase:
    return Staircase(
        **{**data, **{name: tuple(data[name]) for name in ("counts", "latency_us", "efficient")}}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _not_finite(value: Any, where: str = "") -> str:
    if isinstance(value, float):
        return "" if math.isfinite(value) else where
    items: Any = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    found = (_not_finite(item, f"{where}.{name}" if where else str(name)) for name, item in items)
    return next((name for name in found if name), "")
