"""Make the channel graph of a model: capture it once, then walk the operators with channel labels."""

from __future__ import annotations

import operator
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from latency_model.errors import ModelError
from pruner.graph.assemble import assemble
from pruner.graph.context import Call, Context, blank, value_of, where
from pruner.graph.labels import fixed
from pruner.graph.rules import RULES
from pruner.graph.trial import Failures, try_cuts
from pruner.graph.types import ChannelGraph

__all__ = ["capture", "trace"]

_PACKAGE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


def trace(model: nn.Module, example_input: Tensor | tuple[Any, ...], *, trial: bool = True) -> ChannelGraph:
    """Return the channel graph of ``model``: what can be removed together, and what stays whole and why.

    The model is captured with ``torch.export`` in eval mode (its own mode is restored), with a batch of two
    where ``example_input`` has one. Labels that name channels flow through the ATen graph; data movement runs
    on the labels themselves; an unknown operator keeps its inputs whole. With ``trial`` sample cuts are run,
    and a group whose cut the model cannot run (sizes written into its Python code) is frozen with the
    message. Raises ``ModelError`` with the line of the model's code when it cannot be captured.
    """
    args = example_input if isinstance(example_input, tuple) else (example_input,)
    program, args = capture(model, args)
    context = _propagate(model, program)
    graph = assemble(model, program, context, Failures())
    if trial and graph.groups:
        failed = try_cuts(model, graph, args)
        if failed.groups or failed.blocks:
            graph = assemble(model, program, context, failed)
    return graph


def capture(model: nn.Module, args: tuple[Any, ...]) -> tuple[ExportedProgram, tuple[Any, ...]]:
    """Return the exported program of ``model`` in eval mode, and the arguments that it was captured with."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        wide = tuple(_batch_of_two(arg) for arg in args)
        try:
            return torch.export.export(model, wide, strict=False), wide
        except Exception:
            if all(new is old for new, old in zip(wide, args, strict=True)):
                raise
            # an argument without a batch axis: take the arguments as they are
            return torch.export.export(model, args, strict=False), args
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"cannot capture {type(model).__name__} at {_user_line(error)}: {first}; "
            "rewrite that line without control flow that depends on values"
        ) from error
    finally:
        for module, mode in modes.items():
            module.training = mode


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


def _propagate(model: nn.Module, program: ExportedProgram) -> Context:
    signature = program.graph_signature
    context = Context(dict(model.named_modules(remove_duplicate=False)))
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    canonical = _canonical_names(model)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            value = value_of(node)
            if node.name in names:
                context.leaves[node] = canonical.get(names[node.name], names[node.name])
            else:
                context.values[node] = fixed(value.dim()) if isinstance(value, Tensor) else None
        elif node.op == "output":
            for source in node.all_input_nodes:
                context.freeze(source, "model output")
        elif node.op == "get_attr":
            context.values[node] = blank(value_of(node))
        elif node.target is operator.getitem:
            held = context.values[node.args[0]]
            context.values[node] = held[node.args[1]] if isinstance(held, list) else blank(value_of(node))
        else:
            _apply(context, node)
    for node, name in context.leaves.items():
        path, _, attribute = name.rpartition(".")
        if attribute == "weight" and not node.users and value_of(node).dim() > 1:
            # an auxiliary head that only training runs would not fit a trunk that was cut
            context.whole_sites.setdefault(path, "not run in eval mode, so it is never cut")
    return context


def _apply(context: Context, node: Node) -> None:
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[-1] if schema else str(node.target)
    tensors = [
        source for source in node.all_input_nodes if source in context.leaves or source in context.values
    ]
    if not tensors or value_of(node) is None:
        context.values[node] = blank(value_of(node))
    elif name in RULES:
        RULES[name](context, node, Call(node))
    else:
        context.opaque(node, f"unknown op aten.{name} at {where(node)}")


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in pairs}
