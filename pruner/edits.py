"""Changes of a network's structure that no removal of channels can say: modules that are replaced by others.

An edit is data: a plan and a specification of a pruned model carry edits, and what they make consists of torch's own
modules. Edits come first; channels are removed from the network that they leave.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError

if TYPE_CHECKING:
    from pruner.graph.types import Block

__all__ = ["KINDS", "Edit"]

KINDS = ("block", "grouped", "identity")


@dataclass(frozen=True)
class Edit:
    """One replaced module: ``path`` in the original network, ``kind``, and what the kind needs (JSON values).

    ``identity``: the module passes on what it is given. ``block``: a residual block becomes its shortcut and the
    activation after it; the options are the fields of the graph's ``Block``. ``grouped``: a linear layer becomes a
    block-diagonal one of ``groups`` equal parts, with the weights of its diagonal blocks.
    """

    path: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"no edit {self.kind!r}; known are {', '.join(KINDS)}")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @classmethod
    def of_block(cls, block: Block) -> Edit:
        """Return the edit that takes a residual branch away."""
        return cls(block.name, "block", dataclasses.asdict(block))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back."""
        return {"path": self.path, "kind": self.kind, "options": dict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Edit:
        """Return the edit that ``to_json`` wrote; ``InputError`` for another dictionary."""
        if not isinstance(data, Mapping) or set(data) != {"path", "kind", "options"}:
            raise InputError("not an edit of a network: it has other fields than path, kind and options")
        return cls(data["path"], data["kind"], data["options"])
