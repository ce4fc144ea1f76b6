"""What a network spends: its convolutions and other operators, and the channel groups that size them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from latency_model.errors import InputError
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

__all__ = ["Axis", "Channels", "NetworkCost", "OpSite", "Site"]


@dataclass(frozen=True, slots=True)
class Channels:
    """How many channels an axis has, as a function of the counts of the channel groups.

    ``fixed + sum(times * counts[group])``: an input image is ``Channels(3)``, a plain conv output
    ``Channels(terms=(("layer1.0.conv1", 1),))``, a concat has several terms.
    """

    fixed: int = 0
    terms: tuple[tuple[str, int], ...] = ()

    def count(self, counts: Mapping[str, int]) -> int:
        """Return the number of channels at ``counts``."""
        return self.fixed + sum(times * counts[group] for group, times in self.terms)

    def put(self, groups: Mapping[str, Channels]) -> Channels:
        """Return the same count in terms of other groups, ``groups`` saying what each group is made of.

        A group that ``groups`` lacks is a mistake of the caller, ``KeyError``.
        """
        fixed, terms = self.fixed, dict[str, int]()
        for group, times in self.terms:
            fixed += times * groups[group].fixed
            for name, count in groups[group].terms:
                terms[name] = terms.get(name, 0) + times * count
        return Channels(fixed, tuple(terms.items()))


@dataclass(frozen=True, slots=True)
class Site:
    """One convolution of a network at full width, and the channel groups on its two sides.

    ``name`` is the module path (or the ONNX node name). With a count of 0 on either side it costs nothing.
    """

    name: str
    shape: ConvShape
    inputs: Channels
    outputs: Channels

    def at(self, counts: Mapping[str, int]) -> ConvShape | None:
        """Return the shape at ``counts``, or None when an empty side removes the convolution."""
        in_channels, out_channels = self.inputs.count(counts), self.outputs.count(counts)
        return self.shape.with_channels(in_channels, out_channels) if in_channels and out_channels else None


@dataclass(frozen=True, slots=True)
class Axis:
    """One size of an operator that follows channel groups: dimension ``dim`` of its tensor number ``place``.

    Tensors are counted through the inputs and then the weights of an ``OpShape``. ``side`` is ``out`` for the
    outputs of a linear layer, the only operator whose outputs have channels of their own.
    """

    place: int
    dim: int
    channels: Channels
    side: Literal["in", "out"] = "in"


@dataclass(frozen=True, slots=True)
class OpSite:
    """One operator of a network that is not a convolution, at full width, and what sizes it.

    Its cost depends on the counts through ``inputs`` and ``outputs``, like that of a convolution: ``outputs``
    is empty but for a linear layer, and ``inputs`` of a concatenation are all its channels together.
    """

    name: str
    shape: OpShape
    axes: tuple[Axis, ...] = ()

    @property
    def inputs(self) -> Channels:
        """The channels that it reads; without any, a constant 1."""
        found = {axis.place: axis.channels for axis in self.axes if axis.side == "in"}
        if self.shape.op != "Concat":
            return next((channels for channels in found.values() if channels.terms), Channels(1))
        if not any(channels.terms for channels in found.values()):
            return Channels(1)
        dim = next(axis.dim for axis in self.axes)
        parts = [found.get(place, Channels(size[dim])) for place, size in enumerate(self.shape.inputs)]
        return _sum(parts)

    @property
    def outputs(self) -> Channels:
        """The output channels of a linear layer where they follow a group, else none."""
        return next((a.channels for a in self.axes if a.side == "out" and a.channels.terms), Channels())

    def at(self, counts: Mapping[str, int]) -> OpShape | None:
        """Return the shape at ``counts``, or None when an empty side removes the operator.

        A concatenation loses the inputs that are empty.
        """
        sizes = [list(size) for size in (*self.shape.inputs, *self.shape.weights)]
        for axis in self.axes:
            sizes[axis.place][axis.dim] = axis.channels.count(counts)
        inputs = [tuple(size) for size in sizes[: len(self.shape.inputs)]]
        weights = [tuple(size) for size in sizes[len(inputs) :]]
        if self.shape.op == "Concat":
            inputs = [size for size in inputs if min(size) > 0]
        if not inputs or min(min(size) for size in (*inputs, *weights)) < 1:
            return None
        return dataclasses.replace(self.shape, inputs=tuple(inputs), weights=tuple(weights))

    def elements(self, inputs: Any, outputs: Any) -> Any:
        """Return how many numbers it reads when ``inputs`` and ``outputs`` have these counts, or arrays of them."""
        tensors = (*self.shape.inputs, *self.shape.weights)
        sizes: list[list[Any]] = [list(size) for size in tensors]
        free = [axis for axis in self.axes if axis.channels.terms]
        if self.shape.op == "Concat" and free:
            total = sum(size[free[0].dim] for size in self.shape.inputs)
            return sum(map(math.prod, tensors)) // total * inputs
        for axis in free:
            sizes[axis.place][axis.dim] = inputs if axis.side == "in" else outputs
        return sum(map(math.prod, sizes))


def _sum(parts: list[Channels]) -> Channels:
    fixed, terms = 0, dict[str, int]()
    for part in parts:
        fixed += part.fixed
        for group, times in part.terms:
            terms[group] = terms.get(group, 0) + times
    return Channels(fixed, tuple(terms.items()))


@dataclass(frozen=True)
class NetworkCost:
    """The parts of a network that a latency is made of.

    ``groups`` maps each channel group to its full size. ``ops`` are the operators that are not convolutions.
    ``reorders`` are the changes between the plain and the blocked layout that ONNX Runtime on a CPU makes
    where an operator needs the plain one, and at the ends; other runtimes have none of them. ``others`` counts
    what has no site, by kind: it is never priced as zero silently, see ``Estimate.unpriced``.
    """

    name: str
    sites: tuple[Site, ...]
    groups: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)
    ops: tuple[OpSite, ...] = ()
    reorders: tuple[OpSite, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))
        object.__setattr__(self, "others", MappingProxyType(dict(self.others)))
        for site in self.sites:
            for group, _ in (*site.inputs.terms, *site.outputs.terms):
                if group not in self.groups:
                    raise InputError(f"site {site.name} refers to the unknown channel group {group!r}")
        for op in (*self.ops, *self.reorders):
            for group in {group for axis in op.axes for group, _ in axis.channels.terms}:
                if group not in self.groups:
                    raise InputError(f"operator {op.name} refers to the unknown channel group {group!r}")

    def counts(self, changed: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return full counts with ``changed`` applied; ``InputError`` for an unknown group or a bad count."""
        counts = dict(self.groups)
        for group, count in (changed or {}).items():
            if group not in counts:
                raise InputError(f"{self.name} has no channel group {group!r}; it has {', '.join(counts)}")
            if not 0 <= count <= counts[group]:
                raise InputError(f"channel group {group} has 0 to {counts[group]} channels, not {count}")
            counts[group] = count
        return counts

    def regroup(
        self, axes: Mapping[str, tuple[Channels, Channels]], groups: Mapping[str, int]
    ) -> NetworkCost:
        """Return the same network on other channel groups: ``axes`` has (inputs, outputs) by site name.

        A site that ``axes`` lacks keeps its full width at every count; names that are neither a convolution nor
        a linear layer of this network are ignored. The other operators follow what the convolutions before
        them write. Raises ``InputError`` when an axis at the full counts of ``groups`` does not have as many
        channels as the convolution or operator.
        """
        sites = []
        for site in self.sites:
            full = site.shape.in_channels, site.shape.out_channels
            inputs, outputs = axes.get(site.name, (Channels(full[0]), Channels(full[1])))
            for axis, size, side in ((inputs, full[0], "reads"), (outputs, full[1], "writes")):
                if unknown := [group for group, _ in axis.terms if group not in groups]:
                    raise InputError(f"site {site.name} refers to the unknown channel group {unknown[0]!r}")
                if axis.count(groups) != size:
                    raise InputError(
                        f"site {site.name} {side} {size} channels, but its channel groups have "
                        f"{axis.count(groups)}; they were made for another model"
                    )
            sites.append(dataclasses.replace(site, inputs=inputs, outputs=outputs))
        moved = _moved(self.sites, sites, self.groups)
        ops, reorders = (
            tuple(_regrouped(op, moved, axes, groups) for op in found) for found in (self.ops, self.reorders)
        )
        return NetworkCost(self.name, tuple(sites), groups, self.others, ops, reorders)

    def shapes(self, counts: Mapping[str, int] | None = None) -> Iterator[tuple[Site, ConvShape]]:
        """Yield each convolution that runs at ``counts`` (full width if not given)."""
        counts = self.groups if counts is None else counts
        for site in self.sites:
            if (shape := site.at(counts)) is not None:
                yield site, shape

    def priced(self, names: Container[str]) -> tuple[Site | OpSite, ...]:
        """Return the convolutions, and those other operators whose names are in ``names``."""
        return (*self.sites, *(op for op in (*self.ops, *self.reorders) if op.name in names))

    def op_shapes(
        self, counts: Mapping[str, int] | None = None, *, reorders: bool = False
    ) -> Iterator[tuple[OpSite, OpShape]]:
        """Yield each operator that runs at ``counts`` (full width if not given), convolutions excepted."""
        counts = self.groups if counts is None else counts
        for op in (*self.ops, *(self.reorders if reorders else ())):
            if (shape := op.at(counts)) is not None:
                yield op, shape


def _moved(before: tuple[Site, ...], after: list[Site], groups: Mapping[str, int]) -> dict[str, Channels]:
    """Return what each old group is in terms of the new ones, as the convolutions that have it say."""
    moved = {group: Channels(size) for group, size in groups.items()}
    for old, new in zip(before, after, strict=True):
        for was, now in ((old.inputs, new.inputs), (old.outputs, new.outputs)):
            if was.fixed == 0 and len(was.terms) == 1 and was.terms[0][1] == 1:
                moved[was.terms[0][0]] = now
    return moved


def _regrouped(
    op: OpSite,
    moved: Mapping[str, Channels],
    axes: Mapping[str, tuple[Channels, Channels]],
    groups: Mapping[str, int],
) -> OpSite:
    given = axes.get(op.name) if op.shape.op == "Gemm" else None
    tensors, made = (*op.shape.inputs, *op.shape.weights), []
    for axis in op.axes:
        channels = axis.channels.put(moved) if given is None else given[axis.side == "out"]
        if unknown := [group for group, _ in channels.terms if group not in groups]:
            raise InputError(f"operator {op.name} refers to the unknown channel group {unknown[0]!r}")
        if channels.count(groups) != tensors[axis.place][axis.dim]:
            raise InputError(
                f"operator {op.name} has {tensors[axis.place][axis.dim]} channels, but its channel groups have "
                f"{channels.count(groups)}; they were made for another model"
            )
        made.append(dataclasses.replace(axis, channels=channels))
    return dataclasses.replace(op, axes=tuple(made))
