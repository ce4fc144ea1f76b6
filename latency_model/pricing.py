"""What one convolution costs: its row, else its site's grid, else the regression of all rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latency_model.columns import ConvColumns
from latency_model.errors import TableError
from latency_model.grid import ChannelGrid
from latency_model.lookup import LookupTable
from latency_model.measurement import Measurement
from latency_model.reconstruct import LEAST, axis_counts, reconstruct_many
from latency_model.row_model import Predicted, RowModel
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

__all__ = ["ConvPrice", "ConvPrices", "twin"]

Array = NDArray[np.float64]
# Below this part of the points that its counts span a site is taken for one of an adaptive plan.
_SPARSE = 0.7
_LEAST_PART = 0.02


@dataclass(frozen=True, slots=True)
class ConvPrice:
    """A latency with an interval; ``source`` says where it is from."""

    latency_us: float
    low_us: float
    high_us: float
    source: str


@dataclass(frozen=True)
class ConvPrices:
    """Prices of convolutions by the rows of ``table``, and by ``rows`` for what it lacks."""

    table: LatencyTable
    rows: RowModel | None = None

    @cached_property
    def grids(self) -> dict[ConvShape, ChannelGrid]:
        """The channel grid of each site that the table has rows of."""
        rows: dict[ConvShape, dict[ConvShape, Measurement]] = {}
        for shape, row in self.table.items():
            rows.setdefault(shape.site, {})[shape] = row
        grids = {site: ChannelGrid.from_rows(group) for site, group in rows.items()}
        groups = []
        for site, group in rows.items():
            grid = grids[site]
            if len(group) < LEAST or grid.filled >= _SPARSE:
                continue
            inputs, outputs = (list(map(int, axis_counts(c))) for c in (grid.inputs, grid.outputs))
            points = len(inputs) * (1 if grid.linked else len(outputs))
            # Of random rows the step is 1, and next to nothing of the grid is known: that is no plan's.
            if len(group) >= _LEAST_PART * points:
                groups.append((group, inputs, outputs))
        for found in reconstruct_many(groups):
            grids[found.site] = ChannelGrid.from_reconstruction(found)
        return grids

    @cached_property
    def lookup(self) -> LookupTable:
        """The rows as arrays."""
        return LookupTable.build(self.table)

    def grid(self, shape: ConvShape) -> ChannelGrid | None:
        """Return the channel grid of the site of ``shape``, None when the table has no row of it.

        A table row with a bias stands in for one without and the other way round: exporters drop a bias
        that is all zeros, and its cost is within the noise.
        """
        return self.grids.get(shape.site) or self.grids.get(twin(shape).site)

    def measured(self, shape: ConvShape) -> ConvPrice | None:
        """Return the price that the table has, None without one; ``TableError`` beyond a site's counts."""
        grid = self.grid(shape)
        if grid is None:
            return None
        point = grid.at(shape.in_channels, shape.out_channels)
        source = point.source if grid.site == shape.site else f"{point.source}, other bias"
        return ConvPrice(point.latency_us, point.low_us, point.high_us, source)

    def at(self, shapes: Sequence[ConvShape], *, confidence: float = 0.95) -> list[ConvPrice]:
        """Return the price of each of ``shapes``, for the sum of a network.

        Measured, reconstructed or padded ones have the intervals of their rows (95 %), regressed ones those of the
        regression at ``confidence``. Raises ``TableError`` when there is neither a row nor a regression.
        """
        found: dict[ConvShape, ConvPrice] = {}
        lacking: list[ConvShape] = []
        for shape in dict.fromkeys(shapes):
            try:
                price = self.measured(shape)
            except TableError:  # beyond the counts of its site
                if self.rows is None:
                    raise
                price = None
            if price is None:
                lacking.append(shape)
            else:
                found[shape] = price
        if lacking:
            found |= self._regressed(lacking, confidence)
        return [found[shape] for shape in shapes]

    def exact(
        self, columns: ConvColumns, *, confidence: float, for_sums: bool = False
    ) -> tuple[Array, Array, Array, list[str]]:
        """Return latencies, the ends of their intervals and sources of ``columns``: rows, else the regression.

        Grids are not used: a convolution that was not measured is predicted as it is, not as a padded one;
        ``for_sums`` as in ``RowModel.predict``. Raises ``TableError`` when one is not in the table and there is
        no regression.
        """
        count = len(columns)
        held = self.lookup.lookup(columns)
        latency, low, high = held.latency_us, held.low_us, held.high_us
        source = np.full(count, "measured", dtype=object)
        places = np.flatnonzero(~held.found)
        if len(places):
            if self.rows is None:
                shape = next(iter(columns.take(places[:1])))
                raise TableError(
                    f"the table has no row of {shape.text} and the model no regression; fit a model with one"
                )
            found = self.rows.predict(columns.take(places), confidence=confidence, for_sums=for_sums)
            latency[places], low[places], high[places] = found.latency_us, found.low_us, found.high_us
            source[places] = _guesses(found)
        return latency, low, high, source.tolist()

    def _regressed(self, shapes: list[ConvShape], confidence: float) -> dict[ConvShape, ConvPrice]:
        if self.rows is None:
            raise TableError(f"the table has no rows of {shapes[0].text}")
        found = self.rows.predict(ConvColumns.of(shapes), confidence=confidence, for_sums=True)
        ends = (found.low_us.tolist(), found.high_us.tolist())
        columns = (found.latency_us.tolist(), *ends, _guesses(found).tolist())
        return {
            shape: ConvPrice(*parts) for shape, parts in zip(shapes, zip(*columns, strict=True), strict=True)
        }


def _guesses(found: Predicted) -> NDArray[np.object_]:
    """Return the source of each prediction."""
    words: NDArray[np.object_] = np.where(found.beyond, "extrapolated", "regressed").astype(object)
    return words


def twin(shape: ConvShape) -> ConvShape:
    """Return the same convolution with a bias if it has none, and the other way round."""
    parts = shape.pattern.split("+")
    rest = [part for part in parts[1:] if part != "bias"]
    return replace(shape, pattern="+".join(("conv", *([] if "bias" in parts else ["bias"]), *rest)))
