"""Which configurations to measure: for every site the grid of its channel counts, each shape once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Literal, overload

from latency_model.errors import InputError, ModelError
from latency_model.network import Channels, NetworkCost, OpSite, Site
from latency_model.ops import Config, OpShape
from latency_model.shapes import ConvShape

__all__ = ["plan"]

_FIELDS = tuple(ConvShape.__dataclass_fields__)
# The order of ConvShape. Built once for each shape, which is far faster than comparing dataclasses.
_ORDER = attrgetter(*_FIELDS)
_SHARES = 8


@overload
def plan(
    networks: Sequence[NetworkCost], *, step: int = 8, channels: Sequence[int] | None = None
) -> tuple[ConvShape, ...]: ...


@overload
def plan(
    networks: Sequence[NetworkCost],
    *,
    step: int = 8,
    channels: Sequence[int] | None = None,
    ops: Literal[True],
    reorders: bool = False,
) -> tuple[Config, ...]: ...


@overload
def plan(
    networks: Sequence[NetworkCost],
    *,
    step: int = 8,
    channels: Sequence[int] | None = None,
    ops: bool,
    reorders: bool = False,
) -> tuple[Config, ...]: ...


def plan(
    networks: Sequence[NetworkCost],
    *,
    step: int = 8,
    channels: Sequence[int] | None = None,
    ops: bool = False,
    reorders: bool = False,
) -> tuple[Config, ...]:
    """Return the shapes to measure for ``networks``: convolutions, then operators, each sorted, none twice.

    Each axis of a site runs over the multiples of ``step`` up to its full count, and the full count itself;
    ``channels`` gives the counts instead of ``step``. An axis that no channel group feeds (an input image)
    keeps its count. The two axes of a depthwise site move together, and counts that the groups of a grouped
    convolution do not divide are left out. Raises ``ModelError`` for a network without a 2-D convolution.

    ``ops`` adds the other operators, ``reorders`` the changes of layout that ONNX Runtime makes on a CPU too.
    All channels of an operator run together over the full count and at most seven counts below it, multiples of
    ``step`` about an eighth apart: its time is that of moving its data, a line over the counts with a kink where
    a cache ends, and has no stairs to find.
    """
    if step < 1:
        raise InputError(f"the step of a channel grid must be positive, not {step}")
    if channels is not None and min(channels, default=0) < 1:
        raise InputError("the channel counts to measure must be positive, and at least one must be given")
    pairs: dict[ConvShape, tuple[ConvShape, set[tuple[int, int]]]] = {}
    for network in networks:
        if not network.sites:
            raise ModelError(f"{network.name} has no 2-D convolution, so there is nothing to time")
        for site in network.sites:
            _, seen = pairs.setdefault(site.shape.site, (site.shape, set()))
            seen.update(_grid(site, step=step, channels=channels))
    # A set, because a depthwise convolution of one channel is a plain one too.
    shapes = sorted({s for full, seen in pairs.values() for s in _at_counts(full, seen)}, key=_ORDER)
    if not ops:
        return tuple(shapes)
    operators: set[OpShape] = set()
    for network in networks:
        for op in (*network.ops, *(network.reorders if reorders else ())):
            operators.update(_op_shapes(op, network.groups, step=step))
    return (*shapes, *sorted(operators))


def _at_counts(full: ConvShape, pairs: set[tuple[int, int]]) -> Iterator[ConvShape]:
    """Yield ``full`` with other channel counts, which are known to fit it.

    It writes the fields itself: to make them through the constructor and its checks takes five times as long,
    and plans have 100,000 shapes.
    """
    new, put = object.__new__, object.__setattr__
    fixed = [(name, getattr(full, name)) for name in _FIELDS]
    depthwise = full.depthwise
    for inputs, outputs in pairs:
        shape = new(ConvShape)
        for name, value in fixed:
            put(shape, name, value)
        put(shape, "in_channels", inputs)
        put(shape, "out_channels", outputs)
        if depthwise:
            put(shape, "groups", inputs)
        yield shape


def _op_shapes(site: OpSite, groups: Mapping[str, int], *, step: int) -> Iterator[OpShape]:
    """Yield ``site`` at its full size and at shares of its channels; ``groups`` has their full counts."""
    yield site.shape
    full = {group: groups[group] for axis in site.axes for group, _ in axis.channels.terms}
    for share in range(1, _SHARES) if full else ():
        counts = {g: min(size, math.ceil(size * share / _SHARES / step) * step) for g, size in full.items()}
        if (shape := site.at(counts)) is not None:
            yield shape


def _grid(site: Site, *, step: int, channels: Sequence[int] | None) -> Iterator[tuple[int, int]]:
    shape = site.shape
    if shape.depthwise:
        multiplier = shape.out_channels // shape.in_channels
        for count in _counts(shape.in_channels, site.inputs, 1, step=step, channels=channels):
            yield count, count * multiplier
        return
    outputs = _counts(shape.out_channels, site.outputs, shape.groups, step=step, channels=channels)
    for count in _counts(shape.in_channels, site.inputs, shape.groups, step=step, channels=channels):
        for out_count in outputs:
            yield count, out_count


def _counts(
    full: int, axis: Channels, groups: int, *, step: int, channels: Sequence[int] | None
) -> list[int]:
    """Return the counts of one axis that its channel groups can reach and ``groups`` divides."""
    if not axis.terms:
        return [full]
    wanted = range(step, full + 1, step) if channels is None else channels
    # An axis of which a part is fixed never has fewer channels than that part and one more per term.
    least = axis.fixed + min(times for _, times in axis.terms)
    divisor = math.gcd(*(times for _, times in axis.terms))
    counts = {
        count
        for count in wanted
        if least <= count <= full and count % groups == 0 and (count - axis.fixed) % divisor == 0
    }
    return sorted(counts | {full})
