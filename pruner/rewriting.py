"""Edits made: modules replaced in a network, and a rewritten network in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latency_model.errors import InputError
from pruner.edits import Edit
from pruner.graph.types import Block
from pruner.surgery import replace_block
from pruner.training.state import load_tensors, save_tensors

__all__ = ["EDITED", "apply_edits", "load_edited", "load_edits", "save_edited"]

# The file of a network that a method has rewritten: its weights, and the edits as metadata.
EDITED = "edited.safetensors"
_META = "gharial.edits"


def _identity(module: nn.Module, _: Mapping[str, Any]) -> nn.Module:
    return nn.Identity().train(module.training)


def _grouped(module: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    if not isinstance(module, nn.Linear):
        raise TypeError(f"a grouped layer is made of a linear one, not of {type(module).__name__}")
    groups = int(options["groups"])
    made = nn.Conv1d(
        module.in_features, module.out_features, 1, groups=groups, bias=module.bias is not None, device="meta"
    )
    weight = module.weight.detach()
    blocks = weight.view(groups, made.out_channels // groups, groups, made.in_channels // groups)
    own = torch.stack([blocks[part, :, part] for part in range(groups)])
    made.weight = nn.Parameter(own.reshape(made.weight.shape).clone())
    if module.bias is not None:
        made.bias = nn.Parameter(module.bias.detach().clone())
    parts = nn.Sequential(nn.Unflatten(-1, (module.in_features, 1)), made, nn.Flatten(-2))
    return parts.train(module.training)


_KINDS: dict[str, Callable[[nn.Module, Mapping[str, Any]], nn.Module] | None] = {
    "identity": _identity,
    "grouped": _grouped,
    "block": None,  # replaces by parts of the network itself
}


def apply_edits(model: nn.Module, edits: Sequence[Edit]) -> None:
    """Replace modules of ``model`` in place, in the order given.

    Weights that stay are kept as they are; it is for who made the edits to make up for what went. Raises
    ``InputError`` that names the first edit that does not fit the model.
    """
    for edit in edits:
        try:
            make = _KINDS[edit.kind]
            if make is None:
                options: dict[str, Any] = {
                    name: tuple(value) if isinstance(value, list) else value
                    for name, value in edit.options.items()
                }
                replace_block(model, Block(**options))
                continue
            parent, _, name = edit.path.rpartition(".")
            setattr(model.get_submodule(parent), name, make(model.get_submodule(edit.path), edit.options))
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the edit {edit.kind} of {edit.path} does not fit {type(model).__name__} ({error}); use the network "
                "that the edits were made for"
            ) from error


def save_edited(model: nn.Module, edits: Sequence[Edit], path: Path) -> None:
    """Write the weights of a rewritten network and its edits to ``path``, atomically."""
    save_tensors(path, model.state_dict(), {_META: json.dumps([edit.to_json() for edit in edits])})


def load_edits(path: Path) -> tuple[Edit, ...]:
    """Return the edits that ``save_edited`` wrote; ``InputError`` for another file."""
    return _edits(load_tensors(path)[1], path)


def load_edited(model: nn.Module, path: Path) -> tuple[Edit, ...]:
    """Apply the edits in ``path`` to ``model``, load the weights beside them, and return the edits."""
    tensors, metadata = load_tensors(path)
    edits = _edits(metadata, path)
    apply_edits(model, edits)
    model.load_state_dict(tensors)
    return edits


def _edits(metadata: Mapping[str, str], path: Path) -> tuple[Edit, ...]:
    if _META not in metadata:
        raise InputError(f"{path} holds no edited network; give the folder of a pruning run")
    return tuple(Edit.from_json(edit) for edit in json.loads(metadata[_META]))
