"""What other channel counts would save, for each convolution of a network by itself.

A count is *efficient* when no larger one costs the same, within 2 %: the last of its plateau on the pad-up envelope. A
count between two of them pays for channels that it does not have, so it gains by more channels at no cost, or by few
channels less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latency_model.errors import TableError
from latency_model.grid import ChannelGrid
from latency_model.network import NetworkCost
from latency_model.service.stairs import efficient, envelope_of
from latency_model.shapes import ConvShape

if TYPE_CHECKING:
    from latency_model.model import LatencyModel

__all__ = ["aligned", "padded", "side_steps"]


def aligned(model: LatencyModel, network: NetworkCost) -> dict[str, Any]:
    """Return for each convolution of ``network`` which counts near its own cost less; JSON-ready.

    ``sites`` has by name ``out`` and ``in`` as ``side_steps`` gives them and ``padded``; None where the site has no
    staircase. ``padding_saves_us`` is the sum of what padding saves, each convolution by itself: an upper end, since
    convolutions that share channels have to agree on a count. All are latencies of rows, before the correction to
    whole networks.
    """
    made: dict[ConvShape, dict[str, Any] | None] = {}
    for site in network.sites:
        if site.shape not in made:
            made[site.shape] = _around(model, site.shape)
    found = [made[site.shape] for site in network.sites]
    return {
        "sites": dict(zip((site.name for site in network.sites), found, strict=True)),
        "padding_saves_us": sum(entry["padded"]["saved_us"] for entry in found if entry is not None),
    }


def _around(model: LatencyModel, shape: ConvShape) -> dict[str, Any] | None:
    grid = model.convs.grid(shape)
    if grid is None:
        return None
    try:
        price = grid.at(shape.in_channels, shape.out_channels).latency_us
    except TableError:  # beyond the counts of its site
        return None
    sides = {side: side_steps(grid, shape, side, price) for side in ("out", "in")}
    return {"latency_us": price, **sides, "padded": padded(grid, shape, price)}


def padded(grid: ChannelGrid, shape: ConvShape, price_us: float) -> dict[str, Any]:
    """Return the cheapest counts that ``shape`` fits into and what they save; its own where none is cheaper."""
    fits = np.flatnonzero((grid.inputs >= shape.in_channels) & (grid.outputs >= shape.out_channels))
    best = int(fits[np.argmin(grid.latency_us[fits])])
    cost = float(grid.latency_us[best])
    if cost >= price_us:
        counts, cost = (shape.in_channels, shape.out_channels), price_us
    else:
        counts = int(grid.inputs[best]), int(grid.outputs[best])
    return {"in": counts[0], "out": counts[1], "latency_us": cost, "saved_us": price_us - cost}


def side_steps(
    grid: ChannelGrid, shape: ConvShape, side: Literal["out", "in"], price_us: float
) -> dict[str, Any]:
    """Return the efficient counts around that of one side of ``shape``, the other side as it is.

    ``above`` is the next efficient count, that of ``shape`` itself included, ``below`` the next smaller one that is
    cheaper; each a count with its latency on the envelope and what it saves against ``price_us``, less than 0 where it
    costs more. None stands for no such count.
    """
    now, at = shape.out_channels, shape.in_channels
    along, across = grid.outputs, grid.inputs
    if side == "in":
        now, at, along, across = at, now, across, along
    reach = np.ones(len(along), dtype=bool) if grid.linked else across >= at
    counts = np.unique(along[reach])
    envelope = envelope_of(counts, along[reach], grid.latency_us[reach])
    costs = dict(zip(counts.tolist(), envelope.tolist(), strict=True))
    chosen = efficient(counts, envelope)
    smaller = [count for count in chosen if count < now and costs[count] < price_us]
    larger = [count for count in chosen if count >= now]
    return {
        "count": now,
        "above": _step(larger[0], costs[larger[0]], price_us) if larger else None,
        "below": _step(smaller[-1], costs[smaller[-1]], price_us) if smaller else None,
    }


def _step(count: int, cost: float, now: float) -> dict[str, Any]:
    return {"count": count, "latency_us": cost, "saved_us": now - cost}
