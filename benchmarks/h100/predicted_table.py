"""The latency table of a network as a fitted model predicts it: its convolutions and other operators at many counts.

A row is a convolution with the kernels that run after it (bias, addition, activation), each corrected as measured
networks ask for; the transpose of the image and the offset of a whole network are in the row of the stem, so that the
rows of a network sum to the model's estimate of it. Counts go in steps of a 32nd of the widest side, 8 at least, from
an eighth of it up.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from latency_model.columns import ConvColumns
from latency_model.harvest import harvest
from latency_model.measurement import Measurement
from latency_model.model import LatencyModel
from latency_model.network import Channels, NetworkCost, OpSite, Site
from latency_model.networks.kernels import Kernel, kernels_of
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel, load_model
from pruner.graph import ChannelGraph, trace
from pruner.setting import FLOOR

__all__ = ["LAYOUT", "Case", "case", "grid", "predicted_table", "row"]

LAYOUT = "nhwc"  # what the rows and networks of the model were measured in


@dataclass(frozen=True)
class Case:
    """One network at one batch and precision: what is known before any budget."""

    loaded: LoadedModel
    module: nn.Module
    graph: ChannelGraph
    network: NetworkCost
    batch: int
    precision: str


def case(name: str, batch: int, precision: str) -> Case:
    """Return the network called ``name``, with random weights, and its channel groups."""
    loaded = load_model(name, seed=0)
    assert loaded.module is not None
    graph = trace(loaded.module, torch.zeros(2, *loaded.input_shape))
    network = harvest(loaded, batch=batch, precision=precision).regroup(graph.axes(), graph.sizes())
    return Case(loaded, loaded.module, graph, network, batch, precision)


def grid(size: int) -> list[int]:
    """Return the counts of a side of ``size`` channels."""
    step = max(8, size // 32)
    least = max(step, round(FLOOR * size) // step * step)
    return sorted({*range(least, size + 1, step), size})


def alone(site: Site, shape: ConvShape) -> NetworkCost:
    """Return a network of one convolution, for the kernels that run with it."""
    inputs = Channels(terms=(("in", 1),)) if site.inputs.terms else Channels(shape.in_channels)
    groups = {"in": shape.in_channels, "out": shape.out_channels}
    shape = replace(shape, layout=LAYOUT)
    return NetworkCost(site.name, (Site(site.name, shape, inputs, Channels(terms=(("out", 1),))),), groups)


def corrected(model: LatencyModel, kernels: list[Kernel], conv_us: float = 0.0) -> float:
    """Return the share of ``kernels`` in a network, the convolution among them at ``conv_us``."""
    assert model.prices is not None
    glue = sum(model.prices.glue.price(k).latency_us for k in kernels if k.kind != "conv")
    return model.prices.correction.operator_us(None, glue + conv_us, kernels=len(kernels))


def row(latency: float, low: float, high: float, source: str) -> Measurement:
    flags = () if source == "measured" else (source,)
    note = "a convolution and what follows it, predicted from rows and networks of a probe"
    return Measurement(
        latency, low, high, low, latency, latency, high, low, 1, "given", flags=flags, note=note
    )


def predicted_table(model: LatencyModel, found: Case) -> LatencyTable:
    """Return the table of everything that ``found`` may run at the counts of the grids."""
    assert model.prices is not None
    shapes: dict[ConvShape, Site] = {}
    for site in found.network.sites:
        ins = grid(site.shape.in_channels) if site.inputs.terms else [site.shape.in_channels]
        for a in ins:
            for b in grid(site.shape.out_channels):
                shapes.setdefault(site.shape.with_channels(a, b), site)
    plain = [replace(shape, pattern="conv", layout=LAYOUT) for shape in shapes]
    latency, low, high, sources = model.convs.exact(ConvColumns.of(plain), confidence=0.9, for_sums=True)
    rows: dict[ConvShape, Measurement] = {}
    glue: dict[tuple[str, tuple[int, ...], int], list[Kernel]] = {}
    ends = zip(latency.tolist(), low.tolist(), high.tolist(), sources, strict=True)
    for (shape, site), (us, bottom, top, source) in zip(shapes.items(), ends, strict=True):
        key = (
            shape.pattern,
            (shape.out_height, shape.in_channels * (not site.inputs.terms)),
            shape.out_channels,
        )
        if key not in glue:
            glue[key] = list(kernels_of(alone(site, shape)))
        # The stem always runs: what a network costs once is in its row.
        once = 0.0 if site.inputs.terms else model.prices.correction.offset_us
        values = [once + corrected(model, glue[key], value) for value in (us, bottom, top)]
        rows[shape] = row(values[0], values[1], values[2], source)
    ops: dict[OpShape, Measurement] = {}
    for op in found.network.ops:
        for operator, us in operator_prices(model, found.network, op).items():
            ops[operator] = row(us, us, us, "regressed")
    return LatencyTable(model.table.environment, rows, ops=ops)


def operator_prices(model: LatencyModel, network: NetworkCost, op: OpSite) -> dict[OpShape, float]:
    """Return the price of an operator at every count of the group that sizes it."""
    groups = {name for axis in op.axes for name, _ in axis.channels.terms}
    counts = [{name: count} for name in groups for count in grid(network.groups[name])] or [{}]
    found = {}
    for some in counts:
        full = network.counts(some)
        shape = op.at(full)
        if shape is not None:
            alike = NetworkCost(op.name, (), network.groups, ops=(op,))
            found[shape] = corrected(model, list(kernels_of(alike, counts=full)))
    return found
