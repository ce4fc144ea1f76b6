"""Capture a model with ``torch.export`` as one flat graph of ATen operators."""

from __future__ import annotations

import operator
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_leaves

from latency_model.errors import ModelError
from pruner.graph.example import Example

__all__ = ["capture"]

_PACKAGE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


def capture(model: nn.Module, example: Example, *, training: bool = False) -> tuple[ExportedProgram, Example]:
    """Return the exported program of ``model`` and the example that it was captured with.

    It is captured in eval mode unless ``training``; its own mode is restored.
    """
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        wide = example.map(_batch_of_two)
        try:
            return _export(model, wide), wide
        except Exception:
            new, old = (tree_leaves((e.args, dict(e.kwargs))) for e in (wide, example))
            if all(map(operator.is_, new, old)):
                raise
            # an argument without a batch axis: take the arguments as they are
            return _export(model, example), example
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot capture {type(model).__name__} at {_user_line(error)}: {first}; "
            "rewrite that line without control flow that depends on values, or give a forward_fn that runs "
            "the part of the model that is to be pruned"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


def _export(model: nn.Module, example: Example) -> ExportedProgram:
    with example.forward_of(model), warnings.catch_warnings():
        # a cache that a module fills during the capture does not matter here
        warnings.filterwarnings("ignore", message=".*assigned during export.*")
        program = torch.export.export(model, example.args, dict(example.kwargs), strict=False)
    _inline(program)
    return program


def _inline(program: ExportedProgram) -> None:
    """Replace every region under ``no_grad`` or ``autocast`` by the operators in it, in place."""
    graph = program.graph
    for node in list(graph.nodes):
        inner = next((a for a in node.args if isinstance(a, Node) and a.op == "get_attr"), None)
        if node.op != "call_function" or not str(node.target).startswith("wrap_with_") or inner is None:
            continue
        region = program.graph_module.get_submodule(str(inner.target))
        operands = node.args[node.args.index(inner) + 1 :]
        placeholders = [part for part in region.graph.nodes if part.op == "placeholder"]  # type: ignore[union-attr]
        copies: dict[Node, Any] = dict(zip(placeholders, operands, strict=True))
        for part in region.graph.nodes:  # type: ignore[union-attr]
            if part.op == "output":
                _replace(node, [copies.get(value, value) for value in part.args[0]])
            elif part.op != "placeholder":
                with graph.inserting_before(node):
                    copies[part] = graph.node_copy(part, copies.__getitem__)
        graph.erase_node(node)


def _replace(node: Node, results: list[Any]) -> None:
    for user in list(node.users):
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        user.graph.erase_node(user)


def _batch_of_two(arg: Any) -> Any:
    # with a batch of one, broadcasting over the batch would look like no broadcasting
    if isinstance(arg, Tensor) and arg.dim() > 1 and arg.shape[0] == 1:
        return arg.repeat(2, *[1] * (arg.dim() - 1))
    return arg


def _user_line(error: BaseException) -> str:
    frames: list[traceback.FrameSummary] = []
    chain: BaseException | None = error
    while chain is not None:
        frames = [*traceback.extract_tb(chain.__traceback__), *frames]
        chain = chain.__cause__ or chain.__context__
    frames = [
        frame
        for frame in frames
        if not frame.filename.startswith((_TORCH, _PACKAGE)) and Path(frame.filename).is_file()
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
