"""The latency model of one environment: its table, and a correction from sums to whole networks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.correction import Correction, fit_correction
from latency_model.errors import InputError, ModelError, TableError
from latency_model.estimate import Estimate, SiteCost, explain
from latency_model.files import read_json, write_json
from latency_model.grid import ChannelGrid, GridPoint
from latency_model.hull import convex_minorant
from latency_model.measurement import NetworkRow
from latency_model.network import NetworkCost, Site
from latency_model.op_price import OpPrices
from latency_model.ops import Config, OpShape
from latency_model.reconstruct import LEAST, axis_counts, reconstruct_many
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

__all__ = ["Estimate", "LatencyModel", "SiteCost", "explain"]

FORMAT_VERSION = 1
_TABLE, _MODEL = "table.parquet", "model.json"
_SHOWN = 5
# Below this part of the points that its counts span a site is taken for one of an adaptive plan.
_SPARSE = 0.7
# Quantile of the normal distribution of the 95 % intervals that measurements come with.
_Z95 = 1.959963984540054

Kind = Literal["envelope", "raw", "minorant"]


@dataclass(frozen=True)
class LatencyModel:
    """Estimates networks from the rows of one table; made by ``fit`` or ``load``.

    ``notes`` says what ``fit`` left out. ``origin`` is the table's place, for messages.
    """

    table: LatencyTable
    correction: Correction = field(default_factory=Correction)
    notes: tuple[str, ...] = ()
    origin: str = "TABLE"

    @classmethod
    def fit(cls, tables: Sequence[LatencyTable], *, origin: str = "TABLE") -> LatencyModel:
        """Return the model of ``tables``, which must be of one environment.

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
        model = cls(table, origin=origin)
        sums, measured, notes = [], [], []
        for network in table.networks:
            if table.ops and not any(isinstance(shape, OpShape) for shape in network.shapes):
                notes.append(
                    f"network {network.name} not used: it was timed without a list of its other operators"
                )
            elif (total := model._sum(network)) is None:
                notes.append(f"network {network.name} not used: the table lacks rows of it")
            else:
                sums.append(total)
                measured.append(network.measurement.latency_us)
        return replace(model, correction=fit_correction(sums, measured), notes=tuple(notes))

    @cached_property
    def _grids(self) -> dict[ConvShape, ChannelGrid]:
        rows: dict[ConvShape, dict] = {}
        for shape, row in self.table.items():
            rows.setdefault(shape.site, {})[shape] = row
        grids = {site: ChannelGrid.from_rows(group) for site, group in rows.items()}
        # Sites of an adaptive plan: few of the points that their counts span.
        sparse = [
            site for site, group in rows.items() if len(group) >= LEAST and grids[site].filled < _SPARSE
        ]
        groups = [
            (
                rows[s],
                list(map(int, axis_counts(grids[s].inputs))),
                list(map(int, axis_counts(grids[s].outputs))),
            )
            for s in sparse
        ]
        for found in reconstruct_many(groups):
            grids[found.site] = ChannelGrid.from_reconstruction(found)
        return grids

    @cached_property
    def _prices(self) -> OpPrices:
        return OpPrices(self.table.ops)

    @property
    def _reorders(self) -> bool:
        """Whether the runtime of the table changes layouts as ONNX Runtime does on a CPU."""
        environment = self.table.environment
        return environment.runtime == "onnxruntime" and environment.kind == "cpu"

    def grid(self, shape: ConvShape) -> ChannelGrid:
        """Return the channel grid of the site of ``shape``; ``TableError`` when the table has none.

        A table row with a bias stands in for one without and the other way round: exporters drop a bias
        that is all zeros, and its cost is within the noise.
        """
        found = self._grids.get(shape.site) or self._grids.get(_twin(shape).site)
        if found is None:
            raise TableError(self._missing([shape.text], [shape]))
        return found

    def _point(self, shape: ConvShape) -> tuple[GridPoint, str]:
        grid = self.grid(shape)
        point = grid.at(shape.in_channels, shape.out_channels)
        return point, point.source if grid.site == shape.site else f"{point.source}, other bias"

    def _sum(self, network: NetworkRow) -> float | None:
        try:
            return sum(self._share(shape) for shape in network.shapes) or None
        except TableError:
            return None

    def _share(self, shape: Config) -> float:
        if isinstance(shape, OpShape):  # without a row it is left to the correction, as in an estimate
            row = self.table.ops.get(shape)
            return 0.0 if row is None else row.latency_us
        return self._point(shape)[0].latency_us

    def estimate(
        self,
        network: NetworkCost,
        counts: Mapping[str, int] | None = None,
        *,
        confidence: float = 0.9,
    ) -> Estimate:
        """Return the latency of ``network`` at channel ``counts`` (full width if not given).

        The interval joins the rows' own intervals and what the correction leaves open, taken as independent
        and normal. Other operators are priced by their rows, between measured sizes on a line. ``unpriced``
        counts those that no row prices: the offset of the correction covers them as far as measured networks
        had them. Raises ``TableError`` when the table lacks a site, with the
        command that adds it, and ``ModelError`` for a network without a 2-D convolution.
        """
        if not 0 < confidence < 1:
            raise InputError(f"a confidence lies between 0 and 1, not at {confidence}; use 0.9 for 90 %")
        if not network.sites:
            raise ModelError(f"{network.name} has no 2-D convolution, so a table says nothing of it")
        shapes = list(network.shapes(None if counts is None else network.counts(counts)))
        self._check(network, (shape for _, shape in shapes))
        sites, variance, flags = [], 0.0, Counter[str]()
        for site, shape in shapes:
            point, source = self._point(shape)
            sites.append(SiteCost(site.name, shape, point.latency_us, source))
            variance += ((point.high_us - point.low_us) / (2 * _Z95)) ** 2
            flags["padded: the next measured channel counts were used"] += "padded" in source
            flags["reconstructed from other channel counts, not measured"] += "reconstructed" in source
            flags["rows with another bias were used"] += "other bias" in source
            row = self.table.rows.get(shape)
            for flag in row.flags if row is not None else ():
                flags[f"measured as {flag}"] += 1
        ops, unpriced = [], Counter[str](network.others)
        full = network.groups if counts is None else network.counts(counts)
        for op, size in network.op_shapes(full, reorders=self._reorders):
            price = self._prices.at(op, size)
            if price is None:
                unpriced[size.op] += 1
                continue
            ops.append(SiteCost(op.name, size, price.latency_us, price.source))
            variance += ((price.high_us - price.low_us) / (2 * _Z95)) ** 2
        raw = math.fsum(site.latency_us for site in (*sites, *ops))
        value = self.correction.apply(raw)
        sigma = math.hypot(self.correction.slope * math.sqrt(variance), self.correction.spread * value)
        half = _quantile(confidence) * sigma
        said = [f"{text} ({count} of {len(sites)} sites)" for text, count in flags.items() if count]
        if between := sum(op.source == "interpolated" for op in ops):
            said.append(f"interpolated between measured sizes ({between} of {len(ops)} other operators)")
        if not self.correction.networks:
            said.insert(0, "uncorrected")
        return Estimate(
            latency_us=value,
            low_us=max(0.0, value - half),
            high_us=value + half,
            raw_sum_us=raw,
            confidence=confidence,
            sites=tuple(sites),
            unpriced=MappingProxyType(dict(unpriced)),
            flags=(*said, *self.notes),
            correction=self.correction,
            ops=tuple(ops),
        )

    def matrices(self, network: NetworkCost, kind: Kind = "envelope") -> dict[str, NDArray[np.float64]]:
        """Return per site the microseconds at all counts, uncorrected: what ``ExpectedLatency`` takes.

        ``kind`` is ``envelope``, ``raw``, or ``minorant`` (the biconvex minorant of the envelope). A site
        whose two counts are one (depthwise) has a line. Other operators are there as far as the table prices
        them, by their names; what it does not price is left to the correction. Raises ``TableError`` like
        ``estimate``.
        """
        full = [site.shape for site in network.sites]
        self._check(network, full)
        made: dict[tuple[ConvShape, int, int], NDArray[np.float64]] = {}
        found = {}
        for site in network.sites:
            shape = site.shape
            key = (shape.site, shape.in_channels, shape.out_channels)
            if key not in made:
                made[key] = self._matrix(site, kind)
            found[site.name] = made[key]
        for op in (*network.ops, *(network.reorders if self._reorders else ())):
            line = self._prices.matrix(op, network.groups, raw=kind == "raw")
            if line is not None:
                found[op.name] = convex_minorant(line) if kind == "minorant" else line
        return found

    def _matrix(self, site: Site, kind: Kind) -> NDArray[np.float64]:
        grid = self.grid(site.shape)
        dense = grid.dense(
            "raw" if kind == "raw" else "envelope" if kind == "minorant" else kind,
            max_in=site.shape.in_channels,
            max_out=site.shape.out_channels,
        )
        return convex_minorant(dense) if kind == "minorant" else dense

    def _check(self, network: NetworkCost, shapes: Iterable[ConvShape]) -> None:
        names = {site.shape.site: site.name for site in reversed(network.sites)}
        lacking: dict[ConvShape, ConvShape] = {}
        for shape in shapes:
            if shape.site not in self._grids and _twin(shape).site not in self._grids:
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
        """Write ``table.parquet`` and ``model.json`` into ``folder``, each atomically."""
        folder = Path(folder)
        self.table.save(folder / _TABLE)
        write_json(
            folder / _MODEL,
            {
                "format_version": FORMAT_VERSION,
                "environment": self.table.environment.key,
                "rows": len(self.table),
                "correction": self.correction.to_json(),
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
            correction = Correction.from_json(data["correction"])
            whole = (data["environment"], data["rows"]) == (table.environment.key, len(table))
            notes = tuple(str(note) for note in data["notes"])
        except (KeyError, TypeError, ValueError, InputError) as error:
            if isinstance(error, TableError):
                raise
            raise TableError(f"{folder / _MODEL} is damaged ({error}); fit the model again") from error
        if not whole:
            raise TableError(
                f"{folder / _TABLE} is not the table that {folder / _MODEL} was fitted on; "
                "fit the model again"
            )
        return cls(table, correction, notes, str(folder / _TABLE))


def _twin(shape: ConvShape) -> ConvShape:
    """Return the same convolution with a bias if it has none, and the other way round."""
    parts = shape.pattern.split("+")
    rest = [part for part in parts[1:] if part != "bias"]
    return replace(shape, pattern="+".join(("conv", *([] if "bias" in parts else ["bias"]), *rest)))


def _quantile(confidence: float) -> float:
    """Return z with P(|Z| <= z) = ``confidence`` for a standard normal Z."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)
