"""Fit a new device: formulas carried over from a known one, kernels that the samples name, and what is left over.

1. The known device's formulas get the new device's processors, tiles and factors (``carrying``, ``scaling``).
2. Where the samples' kernels are named, these have formulas of their own, and trees choose between them (``naming``).
3. A Gaussian process corrects the mean of both (``process``). It also sees what the known device's formulas left
   over there, and how much the formulas differ, for that is where another kernel may run.
4. One factor between the devices has a share of the result that vanishes with more samples; with 80 samples
   or more whose kernels are named, 200 otherwise, a regression of them alone has a share that grows with them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.conformal import Conformal
from latency_model.errors import ModelError
from latency_model.regression.experts import Expert
from latency_model.regression.geometry import Array
from latency_model.regression.growing import Settings
from latency_model.regression.regressor import RowRegressor
from latency_model.transfer.carrying import carry, find_units
from latency_model.transfer.device import (
    DeviceTransfer,
    Frame,
    carried_costs,
    inputs,
    mixed,
    named_costs,
    seen,
)
from latency_model.transfer.drift import few_rows_drift_us
from latency_model.transfer.naming import name_formulas, route
from latency_model.transfer.process import Process
from latency_model.transfer.view import View, look

__all__ = ["FEWEST", "transfer"]

FEWEST = 8
_ALONE_NAMED, _ALONE = 80, 200  # samples from which a regression of them alone is worth its time
_HALF_NAMED, _HALF = 400, 900  # samples at which it has half of the result, with and without names of kernels
_FACTOR = 5  # samples at which one factor between the devices has half of the result
_DRIFT_ROUNDS = 6
_LEAST_LEFT = 0.2  # of a latency, whatever the drift
# Of the features: batch, input and output channels, height, width, groups, kernel, stride.
_SIZES = (0, 1, 2, 4, 5, 8, 9, 11)
_OPTIMISM = 1.05  # formulas were fitted to the samples that their errors are taken of


def transfer(
    source: RowRegressor,
    columns: ConvColumns,
    latency_us: Array,
    *,
    kernels: Sequence[str] | None = None,
    place: Array | Sequence[Array] | None = None,
    units: int | None = None,
    settings: Settings | None = None,
) -> DeviceTransfer:
    """Return the new device on which ``columns`` took ``latency_us``, as far as ``source`` helps to describe it.

    ``kernels`` are the samples' main kernels, "" where not known. ``place`` says where each stood in the run, 0 to
    1, and lets a drift be taken out (``drift``); of several orders that of the clearest drift is taken. ``units`` is
    the number of the new device's processors, found from the samples if not given. ``settings`` are those of the
    regression of the samples alone. Raises ``ModelError`` for fewer than 8 samples or latencies that are none.
    """
    _check(columns, latency_us, kernels)
    view = look(source, columns)
    units = units or find_units(source.experts, view.sizes, view.chance, latency_us)
    places = [] if place is None else [place] if isinstance(place, np.ndarray) else list(place)
    clean, drift = _without_drift(source, view, latency_us, places, units)
    seed = 0 if settings is None else settings.seed
    found = carry(source.experts, view.sizes, view.chance, clean, units=units)
    carried, costs = carried_costs(found.experts, view)
    named = None
    if kernels is not None:
        named = name_formulas(
            source.experts, view.sizes, view.chance, clean, kernels, units=units, common=found.common
        )
    experts: tuple[Expert, ...] = ()
    router, chance = None, None
    if named is not None:
        experts = named.experts
        looks = seen(view, costs, named_costs(experts, view.sizes))
        router, chance = route(looks, named.label, len(experts), seed=seed)
    mean = mixed(view, carried, costs, experts, chance)
    frame = _frame(source, view, mean.middle)
    process = Process.fit(*inputs(view, mean, frame), np.log(clean) - mean.middle, seed=seed)
    own, weight = None, 0.0
    names = kernels if kernels is not None and any(kernels) else None
    if len(columns) >= (_ALONE_NAMED if names else _ALONE):
        own = RowRegressor.fit(
            columns, clean, kernels=names, settings=settings, place=np.full(len(columns), 0.5)
        )
        weight = len(columns) / (len(columns) + (_HALF_NAMED if names else _HALF))
    return DeviceTransfer(
        source=source,
        units=units,
        carried=found.experts,
        named=experts,
        router=router,
        frame=frame,
        process=process,
        intervals=_intervals(process),
        samples=len(columns),
        factor=float(np.exp(np.median(np.log(clean) - view.predicted))),
        factor_weight=_FACTOR / (_FACTOR + len(columns)),
        drift_us=drift,
        own=own,
        own_weight=weight,
    )


def _check(columns: ConvColumns, latency_us: Array, kernels: Sequence[str] | None) -> None:
    count = len(columns)
    if count < FEWEST:
        raise ModelError(
            f"a new device needs at least {FEWEST} measurements, not {count}; measure more, about a hundred"
        )
    if len(latency_us) != count or (kernels is not None and len(kernels) != count):
        raise ModelError(f"{count} convolutions do not have one latency and kernel each; give as many")
    if not (np.isfinite(latency_us).all() and (latency_us > 0).all()):
        raise ModelError("a latency is no positive finite number; leave such measurements out")


def _without_drift(
    source: RowRegressor, view: View, latency_us: Array, places: Sequence[Array], units: int
) -> tuple[Array, float]:
    """Return the latencies without the drift along the order that shows it best, and that drift."""
    clean, drift = latency_us, 0.0
    for _ in range(_DRIFT_ROUNDS if places else 0):
        experts = carry(source.experts, view.sizes, view.chance, clean, units=units).experts
        predicted, _ = carried_costs(experts, view)
        trials = [few_rows_drift_us(latency_us, np.exp(predicted), place) for place in places]
        best = int(np.argmax([abs(sure) for _, sure in trials]))
        before, drift = drift, trials[best][0]
        order = np.where(np.isfinite(places[best]), places[best], 0.5)
        clean = latency_us - np.minimum(drift * (order - 0.5), (1.0 - _LEAST_LEFT) * latency_us)
        if abs(drift - before) <= 0.01 * abs(drift):
            break
    return clean, drift


def _frame(source: RowRegressor, view: View, middle: Array) -> Frame:
    """Return the sizes that vary on the known device, each once."""
    used: list[int] = []
    for size in _SIZES:
        same = any(np.array_equal(view.plain[:, size], view.plain[:, other]) for other in used)
        if source.highest[size] > source.lowest[size] and not same:
            used.append(size)
    places: NDArray[np.int64] = np.array(used, dtype=np.int64)
    low, high = source.lowest[places], source.highest[places]
    ratio = float(np.median(middle - view.predicted))
    return Frame(places, (low + high) / 2.0, (high - low) / 4.0, ratio)


def _intervals(process: Process) -> Conformal:
    errors, deviation = process.left_out()
    return Conformal.fit(np.exp(_OPTIMISM * errors), np.ones(len(errors)), deviation)
