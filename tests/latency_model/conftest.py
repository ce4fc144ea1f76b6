"""Synthetic tables: any formula of a shape becomes measured rows."""

import dataclasses
import math

import pytest

from latency_model.environment import Environment
from latency_model.measurement import Measurement, NetworkRow
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

ENVIRONMENT = Environment("Test CPU", "cpu", "fake", "1.0")
SHAPE = ConvShape.parse("1x16x8x8 ->16 k3 s1 p1 g1 conv+bias+relu fp32 nchw")


def measurement(latency_us, *, spread=0.01, flags=(), at="2026-01-01"):
    low, high = latency_us * (1 - spread), latency_us * (1 + spread)
    return Measurement(
        latency_us, low, high, low, low, high, high, low, 20, "fake", flags=flags, measured_at=at
    )


def stairs(shape):
    """Microseconds: a fixed start plus work in tiles of 8 output and 4 input channels."""
    tiles = math.ceil(shape.out_channels / 8) * math.ceil(shape.in_channels / shape.groups / 4)
    return 2.0 + 0.01 * tiles * shape.batch * shape.out_height * shape.out_width * shape.kernel[0] ** 2 / 9


def rows_of(shape, counts, formula=stairs, *, spread=0.01):
    """Return rows of a site at pairs of counts."""
    shapes = [shape.with_channels(a, b) for a, b in counts]
    return {s: measurement(formula(s), spread=spread) for s in shapes}


def axis_counts(axis, full, step, groups):
    if not axis.terms:
        return [full]
    return sorted({c for c in range(step, full + 1, step) if c % groups == 0} | {full})


def table_of(network, *, step=8, formula=stairs, spread=0.01, environment=ENVIRONMENT, whole=None):
    """Return a table with the grid of every site; ``whole`` maps the sum of rows to a measured network."""
    rows = {}
    for site in network.sites:
        shape = site.shape
        ins = axis_counts(site.inputs, shape.in_channels, step, 1 if shape.depthwise else shape.groups)
        outs = axis_counts(site.outputs, shape.out_channels, step, shape.groups)
        if shape.depthwise:
            times = shape.out_channels // shape.in_channels
            pairs = [(c, c * times) for c in ins]
        else:
            pairs = [(a, b) for a in ins for b in outs]
        rows |= rows_of(shape, pairs, formula, spread=spread)
    networks = ()
    if whole is not None:
        shapes = tuple(shape for _, shape in network.shapes())
        total = sum(rows[s].latency_us for s in shapes)
        networks = (NetworkRow(network.name, shapes, measurement(whole(total))),)
    return LatencyTable(environment, rows, networks)


class Synthetic:
    """What tests need, as one fixture: modules of tests cannot import each other."""

    environment = ENVIRONMENT
    other_environment = dataclasses.replace(ENVIRONMENT, device="Another CPU")
    shape = SHAPE
    measurement = staticmethod(measurement)
    stairs = staticmethod(stairs)
    rows_of = staticmethod(rows_of)
    table_of = staticmethod(table_of)


@pytest.fixture(scope="session")
def synthetic():
    return Synthetic
