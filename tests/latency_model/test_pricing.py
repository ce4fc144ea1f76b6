"""Prices of convolutions: the row, the grid of its site, the regression, or an error; never zero."""

import dataclasses

import numpy as np
import pytest

from latency_model.columns import ConvColumns
from latency_model.environment import Environment
from latency_model.errors import TableError
from latency_model.pricing import ConvPrices, twin
from latency_model.row_model import Predicted
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

CPU = Environment("Test CPU", "cpu", "fake", "1.0")
SHAPE = ConvShape(1, 16, 8, 8, 32)


@dataclasses.dataclass
class Guess:
    """A regression that says 5 us of everything, and that more than 64 channels are beyond its rows."""

    asked: list = dataclasses.field(default_factory=list)
    sums: list = dataclasses.field(default_factory=list)

    def predict(self, columns: ConvColumns, *, confidence: float = 0.9, for_sums: bool = False) -> Predicted:
        self.sums.append(for_sums)
        self.asked += list(columns)
        count = len(columns)
        return Predicted(
            np.full(count, 5.0),
            np.full(count, 5.0 - confidence),
            np.full(count, 5.0 + confidence),
            columns.out_channels > 64,
        )


def made(synthetic, latencies):
    return LatencyTable(CPU, {shape: synthetic.measurement(us) for shape, us in latencies.items()})


@pytest.fixture
def table(synthetic):
    return made(synthetic, {SHAPE.with_channels(16, c): 2.0 + c for c in (16, 32, 64)})


def test_a_row_is_exact_and_a_count_between_is_padded(table):
    prices = ConvPrices(table)
    exact, padded = prices.at([SHAPE, SHAPE.with_channels(16, 20)])
    assert (exact.latency_us, exact.source) == (34.0, "measured")
    assert (padded.latency_us, padded.source) == (34.0, "padded")


def test_without_a_regression_what_is_missing_is_an_error(table):
    prices = ConvPrices(table)
    for lacking in (ConvShape(2, 16, 8, 8, 32), SHAPE.with_channels(16, 65)):
        with pytest.raises(TableError):
            prices.at([lacking])


def test_the_regression_prices_other_sites_and_counts_beyond(table):
    guess = Guess()
    prices = ConvPrices(table, guess)
    other, larger = ConvShape(2, 16, 8, 8, 32), SHAPE.with_channels(16, 65)
    found = prices.at([other, SHAPE, larger, other], confidence=0.5)
    assert [price.source for price in found] == ["regressed", "measured", "extrapolated", "regressed"]
    assert (found[0].low_us, found[0].latency_us, found[0].high_us) == (4.5, 5.0, 5.5)
    assert guess.asked == [other, larger]  # each once, all at once
    assert guess.sums == [True]  # they are added up to a network


def test_exact_prices_never_pad(table):
    guess = Guess()
    prices = ConvPrices(table, guess)
    columns = ConvColumns.of([SHAPE.with_channels(16, 20), SHAPE, SHAPE.with_channels(16, 99)])
    latency, low, high, source = prices.exact(columns, confidence=0.9)
    assert source == ["regressed", "measured", "extrapolated"]
    assert latency.tolist() == [5.0, 34.0, 5.0]
    assert (low <= latency).all()
    assert (latency <= high).all()
    prices.exact(columns, confidence=0.9, for_sums=True)
    assert guess.sums == [False, True]
    with pytest.raises(TableError, match="no regression"):
        ConvPrices(table).exact(columns, confidence=0.9)


def test_the_twin_of_a_convolution_differs_in_its_bias_only():
    bare = dataclasses.replace(SHAPE, pattern="conv+relu")
    assert twin(SHAPE) == bare
    assert twin(bare) == SHAPE


def test_random_rows_are_not_taken_for_an_adaptive_plan(synthetic):
    rng = np.random.default_rng(0)
    counts = {(int(a), int(b)) for a, b in rng.integers(3, 400, (12, 2))}
    table = made(synthetic, {SHAPE.with_channels(a, b): 1.0 + a * b / 100 for a, b in counts})
    (grid,) = ConvPrices(table).grids.values()
    assert grid.measured is None
    assert len(grid.inputs) == len(counts)
