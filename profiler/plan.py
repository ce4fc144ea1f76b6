"""Which configurations to measure: for every site the grid of its channel counts, each shape once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import attrgetter

from latency_model.errors import InputError, ModelError
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape

__all__ = ["plan"]

# The order of ConvShape. Built once for each shape, which is far faster than comparing dataclasses.
_ORDER = attrgetter(*ConvShape.__dataclass_fields__)


def plan(
    networks: Sequence[NetworkCost], *, step: int = 8, channels: Sequence[int] | None = None
) -> tuple[ConvShape, ...]:
    """Return the shapes to measure for ``networks``, sorted, none twice.

    Each axis of a site runs over the multiples of ``step`` up to its full count, and the full count itself;
    ``channels`` gives the counts instead of ``step``. An axis that no channel group feeds (an input image)
    keeps its count. The two axes of a depthwise site move together, and counts that the groups of a grouped
    convolution do not divide are left out. Raises ``ModelError`` for a network without a 2-D convolution.
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
    shapes = {
        full.with_channels(inputs, outputs) for full, seen in pairs.values() for inputs, outputs in seen
    }
    return tuple(sorted(shapes, key=_ORDER))


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
