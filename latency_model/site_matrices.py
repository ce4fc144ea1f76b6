"""The latency of every operator of a network at all its channel counts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latency_model.corrections import OperatorCorrection, weight_bytes
from latency_model.errors import TableError
from latency_model.hull import convex_minorant
from latency_model.network import NetworkCost, OpSite, Site
from latency_model.op_price import OpPrices
from latency_model.pricing import ConvPrices
from latency_model.shapes import ConvShape

__all__ = ["Kind", "site_matrices"]

Array = NDArray[np.float64]
Kind = Literal["envelope", "raw", "minorant"]


def site_matrices(
    network: NetworkCost,
    convs: ConvPrices,
    ops: OpPrices,
    *,
    kind: Kind = "envelope",
    reorders: bool = False,
    correction: OperatorCorrection | None = None,
) -> dict[str, Array]:
    """Return per site, by name, the microseconds at all counts.

    ``kind`` is ``envelope``, ``raw``, or ``minorant`` (the biconvex minorant of the envelope). A site whose two
    counts are one (depthwise) has a line. Other operators are there as far as ``ops`` prices them; what it does not
    price is left to the correction. With a ``correction`` each has its share of a whole network, of which
    ``call_us`` is the rest, at the weights of the network at full width. Raises ``TableError`` for a convolution
    whose site has no row.
    """
    total = _weights(network, reorders=reorders)

    def finished(site: Site | OpSite, matrix: Array) -> Array:
        if correction is not None:
            matrix = correction.matrix(site, matrix, total_weight_bytes=total)
        return convex_minorant(matrix) if kind == "minorant" else matrix

    made: dict[tuple[ConvShape, int, int], Array] = {}
    found = {}
    for site in network.sites:
        shape = site.shape
        key = (shape.site, shape.in_channels, shape.out_channels)
        if key not in made:
            made[key] = finished(site, _dense(site, convs, kind))
        found[site.name] = made[key]
    for op in (*network.ops, *(network.reorders if reorders else ())):
        line = ops.matrix(op, network.groups, raw=kind == "raw")
        if line is not None:
            found[op.name] = finished(op, line)
    return found


def _dense(site: Site, convs: ConvPrices, kind: Kind) -> Array:
    grid = convs.grid(site.shape)
    if grid is None:
        raise TableError(f"the table has no rows of {site.name} ({site.shape.text})")
    return grid.dense(
        "raw" if kind == "raw" else "envelope",
        max_in=site.shape.in_channels,
        max_out=site.shape.out_channels,
    )


def _weights(network: NetworkCost, *, reorders: bool) -> float:
    """Return the bytes of the weights of ``network`` at full width."""
    shapes = [shape for _, shape in network.shapes()]
    return weight_bytes([*shapes, *(shape for _, shape in network.op_shapes(reorders=reorders))])
