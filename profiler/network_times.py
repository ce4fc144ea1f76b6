"""The latency of whole networks: the fastest reading, once two readings from different moments agree on it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement, NetworkRow
from latency_model.ops import Config
from profiler.drift import DRIFT
from profiler.journal import with_flag
from profiler.scheduler import Scheduler

__all__ = ["Network", "read_networks", "time_networks"]

# A network to time: its name, its ONNX model, and the convolutions and other operators that it runs.
Network: TypeAlias = tuple[str, bytes, tuple[Config, ...]]

_AGREE, _READINGS, _PAUSE_S = 0.02, 4, 1.0  # when two readings of a network settle it


def read_networks(
    scheduler: Scheduler, networks: Sequence[Network], *, tell: bool = True
) -> dict[str, Measurement]:
    """Time ``networks`` once, by turns; one that cannot be timed is left out, and said when ``tell``."""
    if not networks:
        return {}
    try:
        rows = scheduler.time_networks([model for _, model, _ in networks])
    except MeasurementError as error:
        if len(networks) == 1:
            if tell:
                scheduler.note(f"the network {networks[0][0]} was not timed: {error}")
            return {}
        parts = [read_networks(scheduler, [network], tell=tell) for network in networks]
        return {key: row for part in parts for key, row in part.items()}
    return {_key(network): row for network, row in zip(networks, rows, strict=True)}


def time_networks(
    scheduler: Scheduler, networks: Sequence[Network], earlier: Mapping[str, Measurement]
) -> None:
    """Time ``networks`` again, record the fastest reading, and read on while the two fastest disagree.

    What else the machine does makes a network slower, for seconds at a time and with narrow intervals, and
    never faster. So readings from before and after the convolutions must agree, or be settled by others.
    """
    readings = {key: [row] for key, row in earlier.items()}
    pending = list(networks)
    for attempt in range(_READINGS):
        if attempt and pending:
            time.sleep(_PAUSE_S)
        for key, row in read_networks(scheduler, pending, tell=attempt == 0).items():
            readings.setdefault(key, []).append(row)
        pending = [n for n in pending if _key(n) in readings and not _settled(readings[_key(n)], _AGREE)]
        if not pending:
            break
    for network in networks:
        name, _, shapes = network
        if rows := readings.get(_key(network)):
            best = min(rows, key=lambda row: row.latency_us)
            if not _settled(rows, DRIFT):
                best = with_flag(best, "unstable")
            scheduler.journal.add_network(NetworkRow(name, shapes, best))


def _key(network: Network) -> str:
    name, _, shapes = network
    return "\n".join((name, *(shape.text for shape in shapes)))


def _settled(rows: Sequence[Measurement], tolerance: float) -> bool:
    """Whether the two fastest of several readings agree."""
    if len(rows) < 2:
        return False
    first, second = sorted(row.latency_us for row in rows)[:2]
    return second <= first * (1 + tolerance)
