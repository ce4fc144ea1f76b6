"""What a network spends: its convolution sites, the channel groups that feed them, and everything else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from latency_model.errors import InputError
from latency_model.shapes import ConvShape

__all__ = ["Channels", "NetworkCost", "Site"]


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


@dataclass(frozen=True)
class NetworkCost:
    """The parts of a network that a latency is made of.

    ``groups`` maps each channel group to its full size. ``others`` counts the operators that are not
    convolutions, by name: they are never priced as zero silently, see ``Estimate.unpriced``.
    """

    name: str
    sites: tuple[Site, ...]
    groups: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))
        object.__setattr__(self, "others", MappingProxyType(dict(self.others)))
        for site in self.sites:
            for group, _ in (*site.inputs.terms, *site.outputs.terms):
                if group not in self.groups:
                    raise InputError(f"site {site.name} refers to the unknown channel group {group!r}")

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

        A site that ``axes`` lacks keeps its full width at every count; names that are no convolution of this
        network (linear layers) are ignored. Raises ``InputError`` when an axis at the full counts of
        ``groups`` does not have as many channels as the convolution.
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
        return NetworkCost(self.name, tuple(sites), groups, self.others)

    def shapes(self, counts: Mapping[str, int] | None = None) -> Iterator[tuple[Site, ConvShape]]:
        """Yield each convolution that runs at ``counts`` (full width if not given)."""
        counts = self.groups if counts is None else counts
        for site in self.sites:
            if (shape := site.at(counts)) is not None:
                yield site, shape
