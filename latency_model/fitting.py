"""What `gharial fit` does: tables and plain rows to a model, and the facts that its report shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from latency_model.columns import ConvColumns
from latency_model.conformal import FamilyConformal
from latency_model.model import LatencyModel
from latency_model.networks import read_networks, samples_of_rows
from latency_model.networks.glue import GlueSample
from latency_model.networks.prices import LeftOutNetwork
from latency_model.row_model import FEWEST, LeftOut, RowModel
from latency_model.rows import RowSet, load_tables, main_kernel

if TYPE_CHECKING:
    from latency_model.fit_report import FitFacts, NetworkFact, Staircase

__all__ = ["Fitted", "fit_files", "report_facts"]

_CURVE = 200  # points of a predicted staircase
_GLUE = ("bias_us", "relu_us", "transpose_in_us", "transpose_out_us")


@dataclass(frozen=True)
class Fitted:
    """A model, what its rows and networks are predicted at by models without them, and what to know of its files."""

    model: LatencyModel
    rows: LeftOut | None
    networks: tuple[LeftOutNetwork, ...]
    notes: tuple[str, ...]


def fit_files(
    paths: Sequence[Path],
    *,
    networks: Path | None = None,
    on_bad: Literal["error", "drop"] = "error",
    device: str | None = None,
    regression: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Fitted:
    """Fit a model on tables and plain rows of one environment.

    ``networks`` is a file of measured networks, ``device`` the name of that of plain rows. A regression is left
    out, with a note, for fewer than 40 rows.
    Raises ``InputError`` and its kin for files that do not fit, ``ModelError`` for networks that have convolutions
    without a price.
    """
    tables, plain, said = load_tables(paths, on_bad=on_bad, device=device)
    model = LatencyModel.fit(tables, origin=str(paths[0]))
    notes = list(said)
    if plain and len(plain) == len(paths):
        model = replace(model, unit=plain[0].unit)
    left_out: LeftOut | None = None
    if regression and len(model.table) >= FEWEST:
        # The rows of one plain file stand as they were measured; tables are sorted.
        model, left_out = model.with_regression(in_order=len(plain) == len(paths) == 1, progress=progress)
    elif regression:
        notes.append(f"no regression: it needs {FEWEST} rows, and there are {len(model.table)}")
    samples = [sample for rows in plain for sample in _samples(rows)]
    known = model.left_out()
    if networks is not None or samples:
        measured = read_networks(networks) if networks is not None else ()
        model, known = model.with_networks(measured, samples=samples)
    return Fitted(model, left_out, known, tuple(notes))


def _samples(rows: RowSet) -> list[GlueSample]:
    """Return the kernels beside the convolutions that the rows were traced with, if they were."""
    given = {name: rows.extras[name] for name in _GLUE if name in rows.extras}
    return samples_of_rows(rows.columns, **given) if given else []


def _measured_rows(model: LatencyModel, left_out: LeftOut) -> tuple[ConvColumns, np.ndarray]:
    """Return the rows that ``left_out`` speaks of, and their latencies in microseconds."""
    columns = ConvColumns.of(list(model.table)).take(left_out.rows)
    latency = np.array([row.latency_us for row in model.table.values()])[left_out.rows]
    return columns, latency


def report_facts(fitted: Fitted, *, title: str, confidence: float = 0.9) -> FitFacts | None:
    """Return what the report of a fit shows, None when there is neither a regression nor a measured network."""
    from latency_model.fit_report import FitFacts

    model, left_out = fitted.model, fitted.rows
    if left_out is None and not fitted.networks:
        return None
    none = np.zeros(0)
    columns, measured, predicted, low, high = ConvColumns.of([]), none, none, none, none
    family: tuple[str, ...] = ()
    if left_out is not None and model.rows is not None:
        columns, measured = _measured_rows(model, left_out)
        predicted, family = left_out.predicted_us, left_out.family
        inside = np.zeros(len(columns), dtype=bool)
        low, high = model.rows.around(predicted, left_out.spread, inside, confidence)
    environment = model.table.environment
    facts = FitFacts(
        title=title,
        columns=columns,
        measured_us=measured,
        predicted_us=predicted,
        low_us=low,
        high_us=high,
        confidence=confidence,
        family=[main_kernel(name) for name in family],
        networks=_network_facts(fitted.networks, confidence),
        notes=(*fitted.notes, *model.notes),
        facts=(
            ("device", environment.device),
            ("runtime", f"{environment.runtime} {environment.runtime_version}".strip()),
            ("rows", f"{len(model.table):,}"),
            ("networks", f"{len(fitted.networks)}"),
        ),
    )
    return replace(facts, curves=_curves(model.rows, facts))


def _curves(rows: RowModel | None, facts: FitFacts) -> list[Staircase]:
    """Return what the saved regression says of the staircases that the report shows, between their points too."""
    from latency_model.fit_report import staircases

    curves: list[Staircase] = []
    if rows is None:
        return curves
    for stairs in staircases(facts):
        steps = np.unique(np.linspace(stairs.counts[0], stairs.counts[-1], _CURVE).astype(int)).tolist()
        multiple = 1 if stairs.shape is None else stairs.shape.groups
        if stairs.shape is not None and stairs.shape.depthwise:
            multiple = stairs.shape.out_channels // stairs.shape.in_channels
        counts = sorted({count - count % multiple for count in steps if count >= multiple})
        wanted = stairs.at(counts)
        found = rows.predict(wanted, confidence=facts.confidence)
        unknown = [float("nan")] * len(counts)
        curves.append(
            replace(
                stairs,
                counts=counts,
                measured_us=unknown,
                predicted_us=found.latency_us.tolist(),
                low_us=found.low_us.tolist(),
                high_us=found.high_us.tolist(),
            )
        )
    return curves


def _network_facts(networks: Sequence[LeftOutNetwork], confidence: float) -> list[NetworkFact]:
    """Return the networks with intervals that rest on the other families, as those of a new family will."""
    from latency_model.fit_report import NetworkFact

    names = np.array([network.family for network in networks])
    ratios = np.log([network.measured_us / network.predicted_us for network in networks])
    facts = []
    for network in networks:
        others = names != network.family
        low, high = float("nan"), float("nan")
        if len(set(names[others].tolist())) > 1:
            intervals = FamilyConformal.fit(names[others].tolist(), ratios[others])
            low, high = intervals.interval(network.predicted_us, confidence=confidence)
        facts.append(
            NetworkFact(
                network.name,
                network.family,
                network.measured_us,
                network.predicted_us,
                low,
                high,
                network.raw_sum_us,
            )
        )
    return facts
