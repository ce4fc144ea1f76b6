"""The latency model of one environment: its rows, a regression of them, and a correction to whole networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.conformal import NetworkIntervals
from latency_model.correction import Correction, fit_correction
from latency_model.corrections import (
    OperatorCorrection,
    TimedNetwork,
    correction_from_json,
    fit_terms,
    leave_families_out,
    leave_networks_out,
)
from latency_model.errors import InputError, ModelError, TableError
from latency_model.estimate import Estimate, SiteCost, explain
from latency_model.estimating import by_kernels, by_rows
from latency_model.files import read_json, write_json
from latency_model.grid import ChannelGrid
from latency_model.network import NetworkCost
from latency_model.networks.prices import LeftOutNetwork, NetworkPrices, bare, flops_per_us
from latency_model.op_price import OpPrices
from latency_model.pricing import ConvPrices
from latency_model.row_model import LeftOut, RowModel
from latency_model.rows.row_set import Defaults
from latency_model.shapes import ConvShape
from latency_model.site_matrices import Kind, site_matrices
from latency_model.table import LatencyTable
from latency_model.timed_networks import timed_networks

if TYPE_CHECKING:
    from latency_model.networks.glue import GlueSample
    from latency_model.networks.read import MeasuredNetwork

__all__ = ["Estimate", "LatencyModel", "SiteCost", "explain"]

# Version 2 added the regression of rows and the prices of kernels.
FORMAT_VERSION = 2
_TABLE, _MODEL = "table.parquet", "model.json"
_SHOWN = 5
# Fewer families cannot say how families differ: an interval from two or three of them is uselessly wide.
_FAMILIES = 4


@dataclass(frozen=True)
class LatencyModel:
    """Estimates convolutions and networks from the rows of one table; made by ``fit`` or ``load``.

    ``rows`` predicts convolutions that the table lacks, None when there is no regression. ``prices`` are those of
    runtimes whose networks are lists of kernels. ``families`` says how far off networks were that the
    correction did not know, None for less than four families. ``notes`` says what ``fit`` left out.
    ``origin`` is the table's place, for messages. ``unit`` is that of the files of rows it was fitted on.
    """

    table: LatencyTable
    correction: OperatorCorrection = field(default_factory=Correction)
    notes: tuple[str, ...] = ()
    origin: str = "TABLE"
    rows: RowModel | None = None
    prices: NetworkPrices | None = None
    families: NetworkIntervals | None = None
    unit: Literal["ms", "us"] = "us"

    @classmethod
    def fit(cls, tables: Sequence[LatencyTable], *, origin: str = "TABLE") -> LatencyModel:
        """Return the model of ``tables``, which must be of one environment, without a regression of its rows.

        The correction is fitted on the tables' whole-network rows. Raises ``TableError`` for no table, no
        row, or tables of different environments.
        """
        if not tables:
            raise TableError("a latency model needs at least one table; make one with: gharial profile")
        table = tables[0]
        for other in tables[1:]:
            table = table.merge(other)
        if not len(table):
            raise TableError("the table has no rows; fill it with: gharial profile MODEL --out TABLE")
        return cls(table, origin=origin)._corrected()

    def _corrected(self) -> LatencyModel:
        """Return the model with the correction that its table's networks call for."""
        timed, notes = timed_networks(self.table, self.convs)
        if not self.reorders:
            fitted = fit_correction([n.sum_us for n in timed], [n.measured_us for n in timed])
            return replace(self, correction=fitted, notes=notes)
        families = [network.family for network in timed]
        left_out = (
            NetworkIntervals.fit(
                families, leave_families_out(timed, _terms), leave_networks_out(timed, _terms)
            )
            if len(set(families)) >= _FAMILIES
            else None
        )
        return replace(self, correction=fit_terms(timed), families=left_out, notes=notes)

    def left_out(self) -> tuple[LeftOutNetwork, ...]:
        """Return the table's networks as corrections without their families put them; none for fewer than two."""
        timed, _ = timed_networks(self.table, self.convs)
        if not self.reorders or len({network.family for network in timed}) < 2:
            return ()
        ratios = leave_families_out(timed, _terms)
        return tuple(
            LeftOutNetwork(
                n.name, n.family, n.measured_us, n.measured_us / math.exp(r), n.sum_us, len(n.shapes)
            )
            for n, r in zip(timed, ratios.tolist(), strict=True)
        )

    def with_regression(
        self, *, in_order: bool = False, progress: Callable[[int, int], None] | None = None
    ) -> tuple[LatencyModel, LeftOut]:
        """Return the model with a regression of its rows, and what rows are predicted at by one without them.

        ``in_order`` says that the table's rows stand as they were measured. Raises ``ModelError`` for fewer than
        40 rows.
        """
        columns = ConvColumns.of(list(self.table))
        latency = np.array([row.latency_us for row in self.table.values()])
        kernels = [";".join(name for name, _ in row.kernels) for row in self.table.values()]
        rows, left_out = RowModel.fit(
            columns,
            latency,
            kernels=kernels if any(kernels) else None,
            in_order=in_order,
            progress=progress,
        )
        notes = self.notes
        if len(left_out.rows) < len(columns):
            notes = (*notes, f"the regression rests on {len(left_out.rows)} of {len(columns)} rows")
        if rows.regressor.drift_us:
            notes = (
                *notes,
                f"the rows take {rows.regressor.drift_us:.0f} us longer at the end of their file than at its start, "
                "whatever they are: that was taken out; networks are estimated as in the middle of the file, rows as "
                "anywhere in it",
            )
        return replace(self, rows=rows, notes=notes), left_out

    def with_networks(
        self, networks: Sequence[MeasuredNetwork], *, samples: Sequence[GlueSample] = ()
    ) -> tuple[LatencyModel, tuple[LeftOutNetwork, ...]]:
        """Return the model with prices of kernels and a correction fitted on ``networks``.

        Also returns each network as predicted without its family. ``samples`` are kernels beside convolutions
        that the rows were traced with. Raises ``TableError`` when a convolution has no price.
        """
        columns = ConvColumns.of(list(self.table))
        latency = np.array([row.latency_us for row in self.table.values()])
        prices, left_out = NetworkPrices.fit(
            networks, self._conv_us, samples=samples, flops_per_us=flops_per_us(columns, latency)
        )
        return replace(self, prices=prices), left_out

    def _conv_us(self, shapes: Sequence[ConvShape]) -> NDArray[np.float64]:
        columns = ConvColumns.of([bare(shape) for shape in shapes])
        return self.convs.exact(columns, confidence=0.9, for_sums=True)[0]

    @cached_property
    def convs(self) -> ConvPrices:
        """The prices of convolutions."""
        return ConvPrices(self.table, self.rows)

    @cached_property
    def ops(self) -> OpPrices:
        """The prices of other operators."""
        return OpPrices(self.table.ops)

    @property
    def defaults(self) -> Defaults:
        """What a file of rows that this model is asked about may leave unsaid: what all its rows have in common."""
        common = {}
        for name in ("precision", "layout", "pattern"):
            found = {getattr(shape, name) for shape in self.table}
            if len(found) == 1:
                common[name] = found.pop()
        return Defaults(**common, unit=self.unit)

    @property
    def reorders(self) -> bool:
        """Whether the runtime of the table changes layouts as ONNX Runtime does on a CPU."""
        environment = self.table.environment
        return environment.runtime == "onnxruntime" and environment.kind == "cpu"

    def grid(self, shape: ConvShape) -> ChannelGrid:
        """Return the channel grid of the site of ``shape``; ``TableError`` when the table has none.

        A table row with a bias stands in for one without and the other way round: exporters drop a bias
        that is all zeros, and its cost is within the noise.
        """
        found = self.convs.grid(shape)
        if found is None:
            raise TableError(self._missing([shape.text], [shape]))
        return found

    def estimate(
        self,
        network: NetworkCost,
        counts: Mapping[str, int] | None = None,
        *,
        confidence: float = 0.9,
        family: str | None = None,
    ) -> Estimate:
        """Return the latency of ``network`` at channel ``counts`` (full width if not given).

        A convolution has the price of its row, or of its site's grid, else that of the regression, flagged; other
        operators are priced by their rows, between measured sizes on a line, or by the bytes they move.
        ``unpriced`` counts those that nothing prices: the offset of the correction covers them as far as measured
        networks had them. The interval is that of a network of an unseen family, or of another one of ``family``,
        of which networks were measured (``InputError`` where none was). Raises ``TableError`` when the table lacks a
        site and there is no regression, with the
        command that adds it, and ``ModelError`` for a network without a 2-D convolution.
        """
        if not 0 < confidence < 1:
            raise InputError(f"a confidence lies between 0 and 1, not at {confidence}; use 0.9 for 90 %")
        if not network.sites:
            raise ModelError(f"{network.name} has no 2-D convolution, so a table says nothing of it")
        full = network.groups if counts is None else network.counts(counts)
        if self.prices is not None:
            return by_kernels(self, self.prices, network, full, confidence, family)
        if self.rows is None:
            self._check(network, (shape for _, shape in network.shapes(full)))
        return by_rows(self, network, full, confidence, family)

    def predict(
        self, columns: ConvColumns, *, confidence: float = 0.9
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], list[str]]:
        """Return (latency_us, low_us, high_us, source) of convolutions: rows, else the regression.

        ``source`` is ``measured``, ``regressed``, or ``extrapolated`` for sizes outside those of the rows. Raises
        ``TableError`` when one was not measured and there is no regression.
        """
        return self.convs.exact(columns, confidence=confidence)

    def matrices(
        self, network: NetworkCost, kind: Kind = "envelope", *, corrected: bool = False
    ) -> dict[str, NDArray[np.float64]]:
        """Return per site the microseconds at all counts: what ``ExpectedLatency`` takes; see ``site_matrices``.

        Raises ``TableError`` like ``estimate``, also with a regression: a staircase is measured, not guessed.
        """
        self._check(network, [site.shape for site in network.sites])
        return site_matrices(
            network,
            self.convs,
            self.ops,
            kind=kind,
            reorders=self.reorders,
            correction=self.correction if corrected else None,
        )

    def _check(self, network: NetworkCost, shapes: Iterable[ConvShape]) -> None:
        names = {site.shape.site: site.name for site in reversed(network.sites)}
        lacking: dict[ConvShape, ConvShape] = {}
        for shape in shapes:
            if self.convs.grid(shape) is None:
                lacking.setdefault(shape.site, shape)
        if lacking:
            texts = [f"{names[site]} ({shape.text})" for site, shape in lacking.items()]
            raise TableError(self._missing(texts, list(lacking.values()), model=network.name))

    def _missing(self, texts: list[str], shapes: list[ConvShape], *, model: str = "MODEL") -> str:
        shown = ", ".join(texts[:_SHOWN]) + (
            f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        )
        environment = self.table.environment
        batches = " ".join(str(batch) for batch in sorted({shape.batch for shape in shapes}))
        return (
            f"the table has no rows of {shown}; add them with: gharial profile {model} "
            f"--device {environment.kind} --runtime {environment.runtime} "
            f"--precision {shapes[0].precision} --batch {batches} --out {self.origin}"
        )

    def save(self, folder: Path | str) -> None:
        """Write the table, ``model.json`` and the regression into ``folder``, each file atomically."""
        folder = Path(folder)
        self.table.save(folder / _TABLE)
        if self.rows is not None:
            self.rows.save(folder)
        write_json(
            folder / _MODEL,
            {
                "format_version": FORMAT_VERSION,
                "environment": self.table.environment.key,
                "rows": len(self.table),
                "correction": self.correction.to_json(),
                "regression": self.rows is not None,
                "families": None if self.families is None else self.families.to_json(),
                "prices": None if self.prices is None else self.prices.to_json(),
                "unit": self.unit,
                "notes": list(self.notes),
            },
        )

    @classmethod
    def load(cls, folder: Path | str) -> LatencyModel:
        """Read what ``save`` wrote; ``TableError`` when it is missing, damaged, or not of one piece."""
        folder = Path(folder)
        if not (folder / _MODEL).is_file():
            raise TableError(f"no latency model in {folder}; make one with: gharial fit TABLE --out {folder}")
        data = read_json(folder / _MODEL)
        table = LatencyTable.load(folder / _TABLE)
        try:
            if data["format_version"] > FORMAT_VERSION:
                raise TableError(
                    f"{folder} was written by a later version of Gharial; update with: pip install -U gharial"
                )
            correction = correction_from_json(data["correction"])
            families = NetworkIntervals.from_json(data["families"]) if data.get("families") else None
            whole = (data["environment"], data["rows"]) == (table.environment.key, len(table))
            notes = tuple(str(note) for note in data["notes"])
            rows = RowModel.load(folder) if data.get("regression") else None
            prices = NetworkPrices.from_json(data["prices"]) if data.get("prices") else None
            unit: Literal["ms", "us"] = "ms" if data.get("unit") == "ms" else "us"
        except (AttributeError, KeyError, TypeError, ValueError, InputError) as error:
            if isinstance(error, TableError):
                raise
            raise TableError(f"{folder / _MODEL} is damaged ({error}); fit the model again") from error
        if not whole:
            raise TableError(
                f"{folder / _TABLE} is not the table that {folder / _MODEL} was fitted on; "
                "fit the model again"
            )
        return cls(table, correction, notes, str(folder / _TABLE), rows, prices, families, unit)


def _terms(networks: Sequence[TimedNetwork]) -> OperatorCorrection:
    return fit_terms(networks, judged=False)
