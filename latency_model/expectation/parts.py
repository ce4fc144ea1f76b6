"""A network's latency matrices, reduced to what its channel counts can reach.

Sites whose two sides have the same groups are one, for everything here is linear in the matrix. Sides without a
free count become a row or a column, a count that decides both sides (depthwise) a line. Where all counts of a
side come in multiples (grouped convolutions), only every so many-th row is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from latency_model.errors import InputError
from latency_model.network import Channels, NetworkCost, OpSite, Site

__all__ = ["CountAxis", "Part", "Reduced", "Segments", "SharedPart", "reduce_network"]

Array = NDArray[np.float64]
_Key = TypeVar("_Key")


@dataclass(frozen=True, slots=True)
class CountAxis:
    """A count ``sum(times * counts[group])`` from 0 to ``total``; the ``times`` have no common divisor."""

    terms: tuple[tuple[str, int], ...]
    total: int


@dataclass(frozen=True)
class Segments:
    """Runs of equal neighbouring slices: ``of`` has the run of each count, ``first`` the start of each run."""

    of: NDArray[np.int64]
    first: NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One matrix over two independent counts, or a line over one; equal neighbours are stored once."""

    inputs: CountAxis
    outputs: CountAxis | None
    matrix: Array
    rows: Segments | None
    columns: Segments | None


@dataclass(frozen=True)
class SharedPart:
    """A whole matrix whose two counts depend on each other through the groups that they share."""

    inputs: Channels
    outputs: Channels
    matrix: Array


@dataclass(frozen=True)
class Reduced:
    """A network's latency: a constant, and parts that are functions of the counts of ``groups``."""

    constant: float
    parts: tuple[Part, ...]
    shared: tuple[SharedPart, ...]
    groups: tuple[str, ...]


def reduce_network(network: NetworkCost, matrices: Mapping[str, Array]) -> Reduced:
    """Return the parts of ``network``, whose sites have the latency ``matrices`` by name.

    Raises ``InputError`` when a matrix is missing or too small.
    """
    lines: dict[CountAxis, Array] = {}
    planes: dict[tuple[CountAxis, CountAxis], Array] = {}
    shared: dict[tuple[Channels, Channels], Array] = {}
    constant = 0.0
    for site in network.priced(matrices):
        matrix = _fitting(site, network, matrices)
        inputs, outputs = gathered(site.inputs, network), gathered(site.outputs, network)
        if matrix.ndim == 1:
            outputs = Channels()
        elif not outputs.terms:
            matrix, outputs = matrix[:, outputs.fixed], Channels()
        elif not inputs.terms:
            matrix, inputs, outputs = matrix[inputs.fixed], outputs, Channels()
        elif inputs.terms == outputs.terms:
            # One count decides both sides: only a diagonal of the matrix is ever seen.
            both = np.arange(inputs.count(network.groups) - inputs.fixed + 1)
            matrix = matrix[inputs.fixed + both, outputs.fixed + both]
            inputs, outputs = Channels(0, inputs.terms), Channels()
        elif {group for group, _ in inputs.terms} & {group for group, _ in outputs.terms}:
            _sum_into(shared, (inputs, outputs), matrix)
            continue
        if not inputs.terms:
            constant += float(matrix[inputs.fixed])
            continue
        axis, rows = _lattice(inputs, network)
        if not outputs.terms:
            _sum_into(lines, axis, matrix[rows])
        else:
            other, columns = _lattice(outputs, network)
            _sum_into(planes, (axis, other), matrix[rows, columns])
    parts = [_part(axis, None, line) for axis, line in lines.items()]
    parts += [_part(*axes, plane) for axes, plane in planes.items()]
    both_sides = tuple(SharedPart(*axes, matrix) for axes, matrix in shared.items())
    used = {
        group for part in parts for axis in (part.inputs, part.outputs) if axis for group, _ in axis.terms
    }
    used |= {group for part in both_sides for axis in (part.inputs, part.outputs) for group, _ in axis.terms}
    # Groups of one size lie side by side.
    order = sorted(used, key=lambda group: (network.groups[group], group))
    return Reduced(constant, tuple(parts), both_sides, tuple(order))


def gathered(channels: Channels, network: NetworkCost) -> Channels:
    """Return the same axis with one term for each of its groups, in the order of the network's groups."""
    times: dict[str, int] = {}
    for group, count in channels.terms:
        if count and network.groups[group]:
            times[group] = times.get(group, 0) + count
    return Channels(
        channels.fixed, tuple((group, times[group]) for group in network.groups if group in times)
    )


def _sum_into(found: dict[_Key, Array], key: _Key, matrix: Array) -> None:
    found[key] = found[key] + matrix if key in found else matrix


def _fitting(site: Site | OpSite, network: NetworkCost, matrices: Mapping[str, Array]) -> Array:
    """Return the part of the site's matrix that its counts can reach."""
    if site.name not in matrices:
        raise InputError(f"there is no latency matrix for the site {site.name}; make them for this network")
    matrix = np.asarray(matrices[site.name], dtype=np.float64)
    full = (site.inputs.count(network.groups), site.outputs.count(network.groups))[: matrix.ndim]
    if matrix.ndim not in (1, 2) or any(size <= top for size, top in zip(matrix.shape, full, strict=True)):
        raise InputError(
            f"the latency matrix of {site.name} has shape {matrix.shape}; it must reach the counts {full}"
        )
    return matrix[tuple(slice(0, top + 1) for top in full)]


def _lattice(channels: Channels, network: NetworkCost) -> tuple[CountAxis, slice]:
    """Return the axis without the common divisor of its terms, and the slices that it can reach."""
    step = math.gcd(*(times for _, times in channels.terms))
    axis = CountAxis(
        tuple((group, times // step) for group, times in channels.terms),
        (channels.count(network.groups) - channels.fixed) // step,
    )
    return axis, slice(channels.fixed, None, step)


def _part(inputs: CountAxis, outputs: CountAxis | None, matrix: Array) -> Part:
    rows, matrix = _merged(matrix, 0)
    columns, matrix = (None, matrix) if outputs is None else _merged(matrix, 1)
    return Part(inputs, outputs, np.ascontiguousarray(matrix), rows, columns)


def _merged(matrix: Array, axis: int) -> tuple[Segments | None, Array]:
    """Merge equal neighbouring slices where that halves the matrix."""
    differs = np.diff(matrix, axis=axis) != 0
    changes = differs if matrix.ndim == 1 else differs.any(axis=1 - axis)
    if not changes.size or changes.mean() > 0.5:
        return None, matrix
    first = np.concatenate(([0], np.flatnonzero(changes) + 1))
    of = np.concatenate(([0], np.cumsum(changes)))
    return Segments(of, first), np.take(matrix, first, axis=axis)
