"""The networks of a table beside the rows of their operators: what a correction is fitted on."""

from __future__ import annotations

from latency_model.corrections import TimedNetwork
from latency_model.errors import TableError
from latency_model.measurement import NetworkRow
from latency_model.networks import family_of
from latency_model.ops import OpShape
from latency_model.pricing import ConvPrices
from latency_model.table import LatencyTable

__all__ = ["timed_networks"]


def timed_networks(table: LatencyTable, convs: ConvPrices) -> tuple[list[TimedNetwork], tuple[str, ...]]:
    """Return the networks of ``table`` whose convolutions all have prices in ``convs`` that were measured.

    Also returns why others are not among them. What comes before a first ``-`` in a network's name tells its family.
    """
    timed, notes = [], []
    for network in table.networks:
        if table.ops and not any(isinstance(shape, OpShape) for shape in network.shapes):
            notes.append(
                f"network {network.name} not used: it was timed without a list of its other operators"
            )
        elif (found := _with_rows(network, table, convs)) is None:
            notes.append(f"network {network.name} not used: the table lacks rows of it")
        else:
            timed.append(found)
    return timed, tuple(notes)


def _with_rows(network: NetworkRow, table: LatencyTable, convs: ConvPrices) -> TimedNetwork | None:
    """Return a network with its rows, None when a convolution or all of them have none.

    An operator without a row is left to the correction, as in an estimate.
    """
    rows: list[float | None] = []
    for shape in network.shapes:
        if isinstance(shape, OpShape):
            row = table.ops.get(shape)
            rows.append(None if row is None else row.latency_us)
            continue
        try:
            price = convs.measured(shape)
        except TableError:
            return None
        if price is None:
            return None
        rows.append(price.latency_us)
    if not any(rows):
        return None
    family = family_of({"model": network.name.partition("-")[0]})
    return TimedNetwork(network.name, family, network.measurement.latency_us, network.shapes, tuple(rows))
