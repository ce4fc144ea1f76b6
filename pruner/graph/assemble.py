"""Turn propagated labels into groups, sites, gates and blocks with readable names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping

from torch import Tensor, nn
from torch.export import ExportedProgram

from latency_model.network import Channels
from pruner.graph.blocks import find_blocks
from pruner.graph.context import Context
from pruner.graph.labels import FIXED
from pruner.graph.trial import Failures
from pruner.graph.types import ChannelGraph, Frozen, GatePoint, GraphSite, Group, Member, SizeAttribute

__all__ = ["assemble"]

Axis = tuple[str, int]


def assemble(
    model: nn.Module,
    program: ExportedProgram,
    context: Context,
    failed: Failures,
    follow: Collection[str] | None = (),
) -> ChannelGraph:
    """Return the channel graph of ``context``; ``failed`` holds what a trial refused.

    ``follow`` are the groups whose counts the model keeps as numbers in attributes; None means all.
    """
    axes = {key: context.labels.roots(labels).tolist() for key, labels in context.axes.items()}
    channels: dict[int, dict[Axis, list[int]]] = {}
    for key, roots in axes.items():
        for position, root in enumerate(roots):
            if root != FIXED:
                channels.setdefault(root, {}).setdefault(key, []).append(position)
    # classes that are cut from the same axes in the same way are the channels of one group
    families: dict[tuple[tuple[Axis, int], ...], list[int]] = {}
    for root in sorted(channels):
        shape = tuple((key, len(positions)) for key, positions in sorted(channels[root].items()))
        why = context.labels.why_frozen(root)
        families.setdefault((*shape, (("frozen: " + why, 0), 0)) if why else shape, []).append(root)

    writers = _writers(context)
    groups: dict[str, Group] = {}
    channel_of: dict[int, tuple[str, int]] = {}
    frozen: list[Frozen] = []
    why_of: dict[int, str] = {}
    used: dict[str, int] = {}
    for roots in sorted(families.values()):
        if roots[0] not in writers:
            continue  # an axis of a parameter that no activation has
        base = writers[roots[0]]
        used[base] = used.get(base, 0) + 1
        name = base if used[base] == 1 else f"{base}#{used[base]}"
        if why := context.labels.why_frozen(roots[0]) or failed.groups.get(name):
            frozen.append(Frozen(name, why))
            why_of |= dict.fromkeys(roots, why)
            continue
        groups[name] = Group(name, len(roots), _members(channels, roots))
        channel_of |= {root: (name, channel) for channel, root in enumerate(roots)}

    frozen += [Frozen(name, why) for name, why in context.whole_sites.items()]
    frozen += _whole_layers(context, channel_of, why_of, {entry.what for entry in frozen})
    sites, gates = [], []
    for site in context.sites.values():
        inputs = _owners(context, site.inputs, channel_of)
        outputs = _owners(context, site.outputs, channel_of)
        sites.append(GraphSite(site.name, site.kind, _channels(inputs), _channels(outputs)))
        if site.name in context.consumers:
            gates += _gates(site.name, inputs)
    blocks, notes = find_blocks(program, context, groups, failed.blocks)
    averaged = {name for labels in context.normalised for name, _ in _owners(context, labels, channel_of)}
    attributes = _attributes(context, channel_of)
    return ChannelGraph(
        groups=groups,
        sites=tuple(sites),
        gates=tuple(gates),
        blocks=blocks,
        frozen=tuple(frozen),
        fingerprint=_fingerprint(model, groups),
        notes=notes,
        normalised=tuple(name for name in groups if name in averaged),
        attributes=tuple(
            attribute
            for attribute in attributes
            if follow is None or any(group in follow for group, _ in attribute.channels.terms)
        ),
    )


def _members(channels: dict[int, dict[Axis, list[int]]], roots: list[int]) -> tuple[Member, ...]:
    return tuple(
        Member(parameter, axis, tuple(tuple(channels[root][parameter, axis]) for root in roots))
        for parameter, axis in channels[roots[0]]
    )


def _writers(context: Context) -> dict[int, str]:
    """Return the first site in the forward pass that writes each class."""
    first: dict[int, str] = {}
    for site in context.sites.values():
        for root in context.labels.roots(site.outputs).tolist():
            first.setdefault(root, site.name)
    return first


Owner = tuple[str, int]  # group and channel; ("", -1) for a position that stays


def _owners(context: Context, labels: Tensor, channel_of: Mapping[int, Owner]) -> list[Owner]:
    return [channel_of.get(root, ("", -1)) for root in context.labels.roots(labels).tolist()]


def _channels(owners: list[Owner]) -> Channels:
    positions: dict[str, int] = {}
    distinct: dict[str, set[int]] = {}
    for group, channel in owners:
        positions[group] = positions.get(group, 0) + 1
        distinct.setdefault(group, set()).add(channel)
    fixed = positions.pop("", 0)
    return Channels(
        fixed, tuple((group, count // len(distinct[group])) for group, count in positions.items())
    )


def _whole_layers(
    context: Context,
    channel_of: Mapping[int, Owner],
    why_of: Mapping[int, str],
    named: Collection[str],
) -> Iterator[Frozen]:
    """Yield why layers stay whole on both sides that are not named already."""
    for site in context.sites.values():
        labels = [*site.outputs.tolist(), *site.inputs.tolist()]
        roots = [context.labels.find(label) for label in labels]
        if site.name not in named and not any(root in channel_of for root in roots):
            why = next((why_of[root] for root in roots if root in why_of), None)
            yield Frozen(site.name, why or "what it reads and what it writes stays whole")


def _attributes(context: Context, channel_of: Mapping[int, Owner]) -> list[SizeAttribute]:
    """Return the attributes that follow groups; one that would have to follow two things follows nothing."""
    found: dict[tuple[str, str, int], set[Channels]] = {}
    for use in context.sizes:
        channels = _channels(_owners(context, use.labels, channel_of))
        found.setdefault((use.module, use.name, use.position), set()).add(channels)
    return [
        SizeAttribute(*key, channels)
        for key, (channels, *others) in found.items()
        if channels.terms and not others
    ]


def _gates(module: str, owners: list[Owner]) -> list[GatePoint]:
    names = dict.fromkeys(group for group, _ in owners if group)
    return [
        GatePoint(module, name, tuple(c if group == name else -1 for group, c in owners)) for name in names
    ]


def _fingerprint(model: nn.Module, groups: Mapping[str, Group]) -> str:
    structure = {
        "tensors": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        "groups": {
            name: [(m.parameter, m.axis, hash_indices(m.indices)) for m in group.members]
            for name, group in groups.items()
        },
    }
    return hashlib.sha256(json.dumps(structure, sort_keys=True).encode()).hexdigest()[:16]


def hash_indices(indices: tuple[tuple[int, ...], ...]) -> str:
    """Return a short digest of an index map."""
    return hashlib.sha256(repr(indices).encode()).hexdigest()[:8]
