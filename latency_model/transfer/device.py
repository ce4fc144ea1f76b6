"""A device that was measured little, described by another one that was measured much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.conformal import Conformal
from latency_model.regression import state as rows
from latency_model.regression.drift import with_delay
from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Array, Geometry
from latency_model.regression.regressor import RowRegressor
from latency_model.regression.trees import Forest
from latency_model.transfer.process import Process
from latency_model.transfer.view import View, look

__all__ = ["DeviceTransfer", "Frame", "Mean", "restored", "state"]

# Inputs of the process are brought to like sizes; a difference of costs counts for more than one of sizes.
_RATIO, _BETWEEN, _APART, _LEFT = 7.0, 3.0, 7.0, 10.0
_LEAST_LEFT = 0.2  # of a latency, whatever the drift
_SHARED = 0.5  # of what the other device's formulas leave over, expected to be left over here too


@dataclass(frozen=True, eq=False)
class Frame:
    """Which sizes the process looks at, where they are centred and how wide they are; ``ratio`` of the devices."""

    used: NDArray[np.int64]
    center: Array
    width: Array
    ratio: float


@dataclass(frozen=True, eq=False)
class Mean:
    """Logarithms of microseconds: ``carried`` by the other device's families, ``named`` by kernels of this one.

    ``middle`` is between them; ``apart`` how far formulas are from it, shape (n, k).
    """

    middle: Array
    carried: Array
    named: Array
    apart: Array
    chance: Array


@dataclass(frozen=True, eq=False)
class DeviceTransfer:
    """Predicts convolutions on a new device.

    ``carried`` are the formulas of ``source`` scaled to the new device. ``named`` are those of kernels that the
    samples name, between which ``router`` chooses. ``process`` corrects their mean. ``own`` is a regression of the
    samples alone, where there are enough, and has ``own_weight`` of the result. The plain prediction for the known
    device times ``factor`` has ``factor_weight`` of it. ``intervals`` are those of the samples, each left out.
    ``drift_us`` was taken out of them.
    """

    source: RowRegressor
    units: int
    carried: tuple[Expert, ...]
    named: tuple[Expert, ...]
    router: Forest | None
    frame: Frame
    process: Process
    intervals: Conformal
    samples: int
    factor: float
    factor_weight: float
    drift_us: float = 0.0
    own: RowRegressor | None = None
    own_weight: float = 0.0

    def predict(self, columns: ConvColumns, *, without_drift: bool = False) -> Array:
        """Return microseconds, shape (n,).

        Where a drift was found each row is taken to be as likely anywhere in the run, see ``drift.with_delay``;
        ``without_drift`` returns what it would take in its middle.
        """
        found, _ = self._predict(columns)
        return with_delay(found, self.drift_us) if self.drift_us and not without_drift else found

    def expected(self, columns: ConvColumns) -> Array:
        """Return the mean microseconds, shape (n,): what many such convolutions take together, as in a sum."""
        found, apart = self._predict(columns)
        mean: Array = found * np.exp(apart**2 / 2.0)
        return mean

    def spread(self, columns: ConvColumns) -> Array:
        """Return how far off a prediction may typically be, relative to it."""
        return self._predict(columns)[1]

    def interval(
        self, columns: ConvColumns, *, confidence: float = 0.9, without_drift: bool = False
    ) -> tuple[Array, Array, Array]:
        """Return (predicted_us, low_us, high_us), each of shape (n,), whose bounds hold with ``confidence``.

        A drift that was found makes them wider, as the row may stand anywhere in the run.
        """
        middle, apart = self._predict(columns)
        low, high = self.intervals.interval(middle, apart, confidence=confidence)
        if not self.drift_us or without_drift:
            return middle, np.minimum(low, middle), np.maximum(high, middle)
        reach = confidence * abs(self.drift_us) / 2.0
        # Independent errors add up as squares; a latency stays positive.
        low = np.maximum(middle - np.hypot(np.maximum(middle - low, 0.0), reach), _LEAST_LEFT * low)
        high = middle + np.hypot(np.maximum(high - middle, 0.0), reach)
        found = with_delay(middle, self.drift_us)
        return found, np.minimum(low, found), np.maximum(high, found)

    def beyond(self, columns: ConvColumns) -> NDArray[np.bool_]:
        """Return which convolutions are outside what the other device's rows span: extrapolated."""
        return self.source.beyond(columns)

    def _predict(self, columns: ConvColumns) -> tuple[Array, Array]:
        if not len(columns):
            return np.zeros(0), np.zeros(0)
        view = look(self.source, columns)
        carried, costs = carried_costs(self.carried, view)
        chance = None
        if self.router is not None:
            chance = self.router.predict(seen(view, costs, named_costs(self.named, view.sizes)))
        mean = mixed(view, carried, costs, self.named, chance)
        correction, apart = self.process.predict(*inputs(view, mean, self.frame))
        plain = view.predicted + np.log(self.factor)
        corrected = mean.middle + correction
        found = corrected + self.factor_weight * (plain - corrected)
        if self.own is not None:
            found += self.own_weight * (np.log(self.own.predict(columns)) - found)
        # Where the models disagree the mean of them is off by as much as it was moved.
        apart = np.hypot(apart, found - corrected)
        return np.exp(found), apart


def carried_costs(experts: tuple[Expert, ...], view: View) -> tuple[Array, Array]:
    """Return the logarithms of the mean of the carried formulas, shape (n,), and of each, shape (n, k)."""
    costs = np.column_stack([expert.predict(view.sizes) for expert in experts])
    return np.log((view.chance * costs).sum(axis=1)), np.log(costs)


def named_costs(experts: tuple[Expert, ...], sizes: Geometry) -> Array:
    """Return the logarithms of the formulas of named kernels, shape (n, k)."""
    return np.column_stack([np.log(expert.predict(sizes)) for expert in experts])


def seen(view: View, costs: Array, named: Array) -> Array:
    """Return what the trees that choose between kernels see."""
    return np.column_stack(
        [view.plain, costs, view.predicted, view.chance, named - named.mean(axis=1)[:, None]]
    )


def mixed(view: View, carried: Array, costs: Array, named: tuple[Expert, ...], chance: Array | None) -> Mean:
    """Return the mean of formulas; without named kernels that of the carried ones."""
    left = _SHARED * (view.predicted - view.mixed)
    if chance is None:
        apart = costs - carried[:, None]
        return Mean(carried + left, carried, carried, apart, np.zeros((len(carried), 0)))
    logs = named_costs(named, view.sizes)
    own = (chance * logs).sum(axis=1)
    middle = (own + carried) / 2.0
    apart = np.column_stack([logs - middle[:, None], costs - carried[:, None]])
    return Mean(middle + left, carried, own, apart, chance)


def inputs(view: View, mean: Mean, frame: Frame) -> tuple[Array, Array]:
    """Return the inputs of the process and those of its linear part."""
    sizes = (view.plain[:, frame.used] - frame.center) / frame.width
    ratio = (mean.middle - view.predicted - frame.ratio)[:, None]
    between = (mean.named - mean.carried)[:, None]
    left = (view.predicted - view.mixed)[:, None]
    curved = [sizes, _RATIO * ratio, _BETWEEN * mean.apart]
    straight = [sizes, view.chance, _LEFT * left]
    if mean.chance.shape[1]:
        curved.append(_APART * between)
        straight += [mean.chance, _LEFT * between]
    return np.column_stack(curved), np.column_stack(straight)


def state(device: DeviceTransfer) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return a transfer as JSON-ready data and named arrays; ``restored`` makes it again."""
    source, arrays = rows.state(device.source)
    arrays = {f"source.{name}": array for name, array in arrays.items()}
    data: dict[str, Any] = {
        "source": source,
        "units": device.units,
        "carried": [expert.to_json() for expert in device.carried],
        "named": [expert.to_json() for expert in device.named],
        "ratio": device.frame.ratio,
        "intervals": device.intervals.to_json(),
        "samples": device.samples,
        "factor": device.factor,
        "factor_weight": device.factor_weight,
        "drift_us": device.drift_us,
        "own_weight": device.own_weight,
    }
    for name in ("used", "center", "width"):
        arrays[f"frame.{name}"] = getattr(device.frame, name)
    arrays.update({f"process.{name}": array for name, array in device.process.arrays().items()})
    if device.router is not None:
        arrays.update({f"router.{name}": array for name, array in device.router.arrays().items()})
    if device.own is not None:
        data["own"], own = rows.state(device.own)
        arrays.update({f"own.{name}": array for name, array in own.items()})
    return data, arrays


def restored(data: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> DeviceTransfer:
    """Return the transfer that ``state`` took apart."""

    def part(prefix: str) -> dict[str, NDArray[Any]]:
        return {
            name.removeprefix(f"{prefix}."): array
            for name, array in arrays.items()
            if name.startswith(f"{prefix}.")
        }

    router, frame = part("router"), part("frame")
    return DeviceTransfer(
        source=rows.restored(data["source"], part("source")),
        units=int(data["units"]),
        carried=tuple(Expert.from_json(expert) for expert in data["carried"]),
        named=tuple(Expert.from_json(expert) for expert in data["named"]),
        router=Forest.from_arrays(router) if router else None,
        frame=Frame(frame["used"], frame["center"], frame["width"], float(data["ratio"])),
        process=Process.from_arrays(part("process")),
        intervals=Conformal.from_json(data["intervals"]),
        samples=int(data["samples"]),
        factor=float(data["factor"]),
        factor_weight=float(data["factor_weight"]),
        drift_us=float(data["drift_us"]),
        own=rows.restored(data["own"], part("own")) if "own" in data else None,
        own_weight=float(data["own_weight"]),
    )
