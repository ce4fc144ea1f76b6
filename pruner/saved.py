"""Pruned models on disk: a weights file, and a JSON file by which the constructor's model is cut to size."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import nn

from latency_model.errors import InputError, WeightsError
from latency_model.files import read_json, write_atomic, write_json
from pruner.edits import Edit
from pruner.graph.types import Block, ChannelGraph
from pruner.plan import Plan
from pruner.rewriting import apply_edits
from pruner.surgery import like, replace_block, resolve, set_tensor, skeleton, widths

__all__ = ["FORMAT_VERSION", "SPEC", "WEIGHTS", "describe", "rebuild", "save_pruned"]

FORMAT_VERSION = 1
SPEC, WEIGHTS = "spec.json", "weights.safetensors"


def describe(original: nn.Module, pruned: nn.Module, graph: ChannelGraph, plan: Plan) -> dict[str, Any]:
    """Return the JSON specification that turns the structure of ``original`` into that of ``pruned``.

    It holds the plan's edits, the replaced blocks, the width attributes that differ, by module path, and the shapes of
    the tensors that differ. ``rebuild`` reads it with nothing but the model's constructor.
    """
    _, blocks = resolve(graph, plan.keep(graph), plan.blocks)
    replaced = [graph.block(name) for name in blocks]
    structure = skeleton(original)
    apply_edits(structure, plan.edits)
    for block in replaced:
        replace_block(structure, block)
    modules, before = {}, dict(structure.named_modules())
    for path, module in pruned.named_modules():
        if path not in before:
            raise InputError(
                f"the pruned model has the module {path!r}, which the original with this plan lacks"
            )
        old = widths(before[path])
        changed = {name: value for name, value in widths(module).items() if old.get(name) != value}
        if changed:
            modules[path] = changed
    for attribute in graph.attributes:
        if attribute.module in before and attribute.module in dict(pruned.named_modules()):
            value = getattr(pruned.get_submodule(attribute.module), attribute.name)
            if value != getattr(before[attribute.module], attribute.name):
                modules.setdefault(attribute.module, {})[attribute.name] = (
                    list(value) if isinstance(value, tuple) else value
                )
    shapes = {name: list(tensor.shape) for name, tensor in structure.state_dict().items()}
    return {
        "format_version": FORMAT_VERSION,
        "model": plan.model,
        "fingerprint": plan.fingerprint,
        "edits": [edit.to_json() for edit in plan.edits],
        "blocks": [dataclasses.asdict(block) for block in replaced],
        "modules": modules,
        "shapes": {
            name: list(tensor.shape)
            for name, tensor in pruned.state_dict().items()
            if shapes.get(name) != list(tensor.shape)
        },
        "constants": _constants(structure, graph, plan),
    }


def _constants(structure: nn.Module, graph: ChannelGraph, plan: Plan) -> dict[str, dict[str, list[int]]]:
    """Return what is kept of buffers that no weights file holds, by name and axis."""
    stored = structure.state_dict()
    unsaved = {name for name, _ in structure.named_buffers()} - set(stored)
    gone: dict[str, dict[str, set[int]]] = {}
    for name, indices in plan.removed.items():
        for member in graph.groups[name].members:
            if member.parameter in unsaved:
                axes = gone.setdefault(member.parameter, {})
                positions = {p for channel in indices for p in member.indices[channel]}
                axes.setdefault(str(member.axis), set()).update(positions)
    return {name: {axis: sorted(places) for axis, places in axes.items()} for name, axes in gone.items()}


def save_pruned(
    pruned: nn.Module, directory: Path | str, *, original: nn.Module, graph: ChannelGraph, plan: Plan
) -> None:
    """Write ``weights.safetensors`` and ``spec.json`` of a pruned model into ``directory``.

    ``original`` gives the full-size structure; its weights are not read.
    """
    directory = Path(directory)
    write_json(directory / SPEC, describe(original, pruned, graph, plan))
    write_atomic(directory / WEIGHTS, lambda path: save_model(pruned, str(path)))


def rebuild(
    factory: Callable[[], nn.Module], spec: Path | str | Mapping[str, Any], weights: Path | str | None = None
) -> nn.Module:
    """Return the pruned model: the constructor's model cut to ``spec``, with ``weights`` loaded.

    ``spec`` is the dictionary of ``describe``, or the path of its file. Without ``weights`` the cut tensors
    are uninitialised. Neither the channel graph nor an export of the model is needed. Raises ``InputError``
    when the specification does not fit the constructor, ``WeightsError`` when the weights do not.
    """
    data = spec if isinstance(spec, Mapping) else read_json(Path(spec))
    if not isinstance(data, Mapping) or not {"blocks", "modules", "shapes"} <= set(data):
        raise InputError(f"{spec} does not describe a pruned model; give the {SPEC} that save_pruned wrote")
    if data.get("format_version", 1) > FORMAT_VERSION:
        raise InputError(
            "the specification was written by a later version of Gharial; pip install -U gharial"
        )
    model = factory()
    apply_edits(model, [Edit.from_json(edit) for edit in data.get("edits", ())])
    try:
        for entry in data["blocks"]:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in entry.items()}
            replace_block(model, Block(**fields))
        for path, changed in data["modules"].items():
            module = model.get_submodule(path)
            for name, value in changed.items():
                setattr(module, name, tuple(value) if isinstance(value, list) else value)
        _resize(model, data["shapes"])
        for name, axes in data.get("constants", {}).items():
            _shrink(model, name, axes)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"the specification does not fit {type(model).__name__} ({error}); use the constructor and "
            "arguments of the model that was pruned"
        ) from error
    if weights is not None:
        _load(model, Path(weights))
    return model


def _resize(model: nn.Module, shapes: Mapping[str, list[int]]) -> None:
    done: dict[int, torch.Tensor] = {}
    for name, shape in shapes.items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        old: torch.Tensor | None = module._parameters.get(attribute)
        old = module._buffers[attribute] if old is None else old
        if old is None:
            raise KeyError(name)
        # tied tensors stay tied: one new tensor for each old one
        if id(old) not in done:
            done[id(old)] = like(old, torch.empty(shape, dtype=old.dtype, device=old.device))
        set_tensor(module, attribute, done[id(old)])


def _shrink(model: nn.Module, name: str, axes: Mapping[str, list[int]]) -> None:
    path, _, attribute = name.rpartition(".")
    tensor = model.get_buffer(name)
    for axis, gone in axes.items():
        rest = [position for position in range(tensor.shape[int(axis)]) if position not in set(gone)]
        tensor = tensor.index_select(int(axis), torch.tensor(rest, device=tensor.device))
    set_tensor(model.get_submodule(path), attribute, tensor)


def _load(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"no weights file at {path}; it lies beside the {SPEC}")
    try:
        state: Any = OrderedDict(load_file(str(path)))
        # some models read the version of their layout here, which a weights file does not hold
        state._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
        missing, unexpected = model.load_state_dict(state, strict=False)
        tensors = dict(
            [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        )
        loaded = {id(tensors[name]) for name in state if name in tensors}
        missing = [name for name in missing if name not in tensors or id(tensors[name]) not in loaded]
        if missing or unexpected:
            raise RuntimeError(f"missing {missing[:3]}, not expected {unexpected[:3]}")
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} does not fit the specification ({reason}); use the pair that was saved"
        ) from error
