"""The plan of one pruning: what is removed, in the coordinates of the original model, or of the edited one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from latency_model.errors import InputError
from latency_model.files import read_json, write_json
from pruner.edits import Edit
from pruner.graph.types import ChannelGraph

__all__ = ["FORMAT_VERSION", "Plan"]

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What one pruning removes: channels of groups and whole blocks, in original coordinates.

    ``edits`` are made to the network first (see ``pruner.edits``); the graph, its groups and blocks are then those of
    the network after them.

    ``fingerprint`` is the one of the ``ChannelGraph`` that the plan was made for. ``removed`` maps groups to
    removed channel indices; groups of removed blocks need not be named. ``predicted`` holds what the method
    expects of the result (JSON values), deployed in ``precision``. Immutable; ``save`` and ``load`` are inverse.
    """

    fingerprint: str
    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    blocks: tuple[str, ...] = ()
    budget: str = ""
    method: str = ""
    seed: int = 0
    predicted: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    precision: str = "fp32"
    edits: tuple[Edit, ...] = ()
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        removed = {group: tuple(sorted(map(int, indices))) for group, indices in self.removed.items()}
        for group, indices in removed.items():
            if len(set(indices)) != len(indices):
                raise InputError(f"the plan removes a channel of group {group} twice; name each channel once")
        removed = {group: indices for group, indices in removed.items() if indices}
        object.__setattr__(self, "removed", MappingProxyType(removed))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        object.__setattr__(self, "edits", tuple(self.edits))
        object.__setattr__(self, "predicted", MappingProxyType(dict(self.predicted)))

    def check(self, graph: ChannelGraph) -> None:
        """Raise ``InputError`` unless the plan can be applied to ``graph``."""
        if self.fingerprint != graph.fingerprint:
            raise InputError(
                f"the plan was made for another model structure (fingerprint {self.fingerprint}, "
                f"this model has {graph.fingerprint}); make a new plan for this model"
            )
        for name in self.blocks:
            graph.block(name)
        for group, indices in self.removed.items():
            if group not in graph.groups:
                raise InputError(f"the plan names the unknown channel group {group!r}; make a new plan")
            size = graph.groups[group].size
            if indices[0] < 0 or indices[-1] >= size:
                raise InputError(
                    f"the plan removes channel {indices[-1] if indices[-1] >= size else indices[0]} of group "
                    f"{group}, which has channels 0 to {size - 1}"
                )
        inside = self._inside(graph)
        for group, indices in self.removed.items():
            if len(indices) == graph.groups[group].size and group not in inside:
                raise InputError(
                    f"the plan removes all channels of group {group}; keep at least one, or remove its block"
                )

    def _inside(self, graph: ChannelGraph) -> set[str]:
        """Return the groups that vanish with a block: a named one, or one whose groups are all emptied."""
        empty = {group for group, gone in self.removed.items() if len(gone) == graph.groups[group].size}
        return {
            group
            for block in graph.blocks
            if block.name in self.blocks or (block.groups and empty.issuperset(block.groups))
            for group in block.groups
        }

    def keep(self, graph: ChannelGraph) -> dict[str, tuple[int, ...]]:
        """Return the kept channel indices of every group, none for groups of removed blocks."""
        self.check(graph)
        inside = self._inside(graph)
        return {
            name: ()
            if name in inside
            else tuple(sorted(set(range(group.size)) - set(self.removed.get(name, ()))))
            for name, group in graph.groups.items()
        }

    def counts(self, graph: ChannelGraph) -> dict[str, int]:
        """Return the kept channel count of every group, 0 for groups of removed blocks."""
        return {name: len(indices) for name, indices in self.keep(graph).items()}

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["removed"] = {group: list(indices) for group, indices in self.removed.items()}
        data["blocks"], data["predicted"] = list(self.blocks), dict(self.predicted)
        data["edits"] = [edit.to_json() for edit in self.edits]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """Return the plan that ``to_json`` wrote; ``InputError`` when it is not one or is too new."""
        if not isinstance(data, Mapping) or "fingerprint" not in data or "removed" not in data:
            raise InputError("not a pruning plan: it lacks 'fingerprint' or 'removed'; give a plan.json")
        if data.get("format_version", 1) > FORMAT_VERSION:
            raise InputError("the plan was written by a later version of Gharial; pip install -U gharial")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise InputError(f"a plan has no field {unknown[0]!r}; was it written by a later version?")
        removed = {group: tuple(indices) for group, indices in data["removed"].items()}
        edits = tuple(Edit.from_json(edit) for edit in data.get("edits", ()))
        return cls(**{**data, "removed": removed, "edits": edits})

    def save(self, path: Path | str) -> None:
        """Write the plan to ``path`` as JSON, atomically."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Plan:
        """Read the plan that ``save`` wrote."""
        return cls.from_json(read_json(Path(path)))
