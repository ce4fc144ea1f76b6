"""The channel graph as data: which channel axes must be cut together, and who reads and writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from latency_model.errors import InputError
from latency_model.network import Channels

__all__ = ["Block", "ChannelGraph", "Frozen", "GatePoint", "GraphSite", "Group", "Member", "SizeAttribute"]


@dataclass(frozen=True, slots=True)
class Member:
    """One axis of a parameter or buffer that a group cuts.

    ``indices[c]`` are the positions along ``axis`` that belong to channel ``c`` of the group: several after a
    flatten, with a depthwise multiplier, or where the halves of a chunk must shrink alike.
    """

    parameter: str
    axis: int
    indices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Channels that can be removed independently of each other, and the axes each is removed from.

    ``name`` is the module path of the first convolution or linear layer that writes the group.
    """

    name: str
    size: int
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True)
class GraphSite:
    """One convolution or linear layer and the channel counts on its two sides.

    ``kind`` is conv, depthwise, grouped, transposed or linear; ``name`` is the module path.
    """

    name: str
    kind: str
    inputs: Channels
    outputs: Channels


@dataclass(frozen=True, slots=True)
class GatePoint:
    """Where a mask must multiply so that masked channels of ``group`` contribute nothing to ``module``.

    ``channels`` has one entry per input channel of the module: the channel of the group, or -1.
    """

    module: str
    group: str
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """A residual branch that can be removed: the container then computes ``activation(skip(x))``.

    ``groups`` live only inside the branch; ``sites`` are its convolutions and linear layers. ``tail`` is the
    submodule after which the branch is zero when that submodule's output is zero. ``skip`` are the modules of
    the shortcut, empty for an identity. ``activation`` is "" for none, the path of a module, or
    ``function:NAME`` for a functional call. Paths are full module paths.
    """

    name: str
    groups: tuple[str, ...]
    sites: tuple[str, ...]
    tail: str
    skip: tuple[str, ...] = ()
    activation: str = ""


@dataclass(frozen=True, slots=True)
class SizeAttribute:
    """A number that the code of ``module`` keeps: it must count ``channels`` after a cut.

    ``position`` is the place in a tuple or list, -1 for a plain number.
    """

    module: str
    name: str
    position: int
    channels: Channels


@dataclass(frozen=True, slots=True)
class Frozen:
    """Something that stays whole, and the reason."""

    what: str
    why: str


@dataclass(frozen=True)
class ChannelGraph:
    """Channel groups, sites and removable blocks of one model; made by ``pruner.graph.trace``.

    ``groups`` are in the order of their first writer in the forward pass. ``frozen`` says what cannot be
    pruned and why; ``notes`` says why a residual branch is not offered as a block. ``normalised`` names the
    groups that a norm, or a standardised weight, averages over: there, removing a channel is not the same as
    masking it. ``attributes`` are numbers in the model's Python code that ``remove`` sets.
    ``fingerprint`` identifies the structure: plans made on another one are refused.
    """

    groups: Mapping[str, Group]
    sites: tuple[GraphSite, ...]
    gates: tuple[GatePoint, ...]
    blocks: tuple[Block, ...]
    frozen: tuple[Frozen, ...]
    fingerprint: str
    notes: tuple[Frozen, ...] = ()
    normalised: tuple[str, ...] = ()
    attributes: tuple[SizeAttribute, ...] = ()
    _blocks: Mapping[str, Block] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))
        object.__setattr__(self, "_blocks", {block.name: block for block in self.blocks})

    def block(self, name: str) -> Block:
        """Return the block called ``name``; ``InputError`` when it is not offered."""
        if name not in self._blocks:
            known = ", ".join(self._blocks) or "none"
            raise InputError(f"no removable block {name!r} in this model; it has {known}")
        return self._blocks[name]

    def sizes(self) -> dict[str, int]:
        """Return the full channel count of each group."""
        return {name: group.size for name, group in self.groups.items()}

    def axes(self) -> dict[str, tuple[Channels, Channels]]:
        """Return the input and output channels of each site, by module path."""
        return {site.name: (site.inputs, site.outputs) for site in self.sites}

    def explain(self) -> str:
        """Return a text for people: groups with readers and writers, blocks, and what stays whole."""
        writers: dict[str, list[str]] = {name: [] for name in self.groups}
        readers: dict[str, list[str]] = {name: [] for name in self.groups}
        for site in self.sites:
            for group, _ in site.outputs.terms:
                writers[group].append(site.name)
            for group, _ in site.inputs.terms:
                readers[group].append(site.name)
        channels = sum(group.size for group in self.groups.values())
        lines = [f"{len(self.groups)} groups, {channels} channels, {len(self.sites)} sites"]
        for name, entry in self.groups.items():
            mark = " (normalised over)" if name in self.normalised else ""
            lines.append(f"  {name}: {entry.size} channels{mark}")
            lines.append(f"    written by {', '.join(writers[name])}")
            lines.append(f"    read by {', '.join(readers[name]) or 'nobody'}")
        lines.append(f"{len(self.blocks)} removable blocks")
        for block in self.blocks:
            skip = " > ".join(block.skip) or "identity"
            lines.append(f"  {block.name}: groups {', '.join(block.groups) or 'none'}; shortcut {skip}")
        for title, entries in (("stays whole", self.frozen), ("notes", self.notes)):
            if entries:
                lines.append(f"{title}: {len(entries)}")
                lines += [f"  {whole.what}: {whole.why}" for whole in entries]
        return "\n".join(lines)
