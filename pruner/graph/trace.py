"""Make the channel graph of a model: capture it once, then walk the operators with channel labels."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

from latency_model.errors import ModelError
from pruner.graph.assemble import assemble
from pruner.graph.capture import capture
from pruner.graph.context import Call, Context, blank, value_of, where
from pruner.graph.example import Example, ForwardFn
from pruner.graph.labels import fixed
from pruner.graph.rules import RULES
from pruner.graph.rules.weights import compute_weight, computes_weight
from pruner.graph.trial import Failures, all_pass, try_cuts
from pruner.graph.types import ChannelGraph

__all__ = ["trace"]


def trace(
    model: nn.Module,
    example_inputs: Any,
    *,
    kwargs: Mapping[str, Any] | None = None,
    forward_fn: ForwardFn | None = None,
    trial: bool = True,
) -> ChannelGraph:
    """Return the channel graph of ``model``: what can be removed together, and what stays whole and why.

    ``example_inputs`` is one argument of the model (a tensor, list or mapping) or a tuple of several;
    ``kwargs`` are keyword arguments. ``forward_fn(model, *args, **kwargs)`` replaces the model's forward for
    the capture where that cannot be captured whole: a detector's backbone and heads without its choice of
    boxes. What it returns stays whole, and so does every layer that it does not run.

    The model is captured with ``torch.export`` in eval mode (its own mode is restored), with a batch of two
    where an example has one. Labels that name channels flow through the ATen graph; data movement runs
    on the labels themselves; an unknown operator keeps its inputs whole. With ``trial`` sample cuts are run:
    where the model cannot run one, its attributes that hold channel counts are set as well, and when that
    does not help the group is frozen with the message. Layers that only training runs (auxiliary heads) are
    captured in training mode, and cut with what they read. Raises ``ModelError`` with the line of the model's
    code when it cannot be captured.
    """
    program, example = capture(model, Example.of(example_inputs, kwargs, forward_fn))
    context = _propagate(model, program, example)
    if not trial:
        return assemble(model, program, context, Failures(), None)
    graph = assemble(model, program, context, Failures())
    if not graph.groups:
        return graph
    half = any(
        value_of(node).dtype in (torch.bfloat16, torch.float16)
        for node in program.graph.nodes
        if isinstance(value_of(node), Tensor)
    )
    follow: frozenset[str] | None = frozenset()
    following = assemble(model, program, context, Failures(), None)
    passes = partial(all_pass, model, example=example, half=half)
    if following.attributes and not passes(graph) and passes(following):
        graph, follow = following, None
    failed = try_cuts(model, graph, example, half=half)
    if failed.groups and follow is not None:
        following = assemble(model, program, context, Failures(), failed.groups)
        if following.attributes:
            again = try_cuts(model, following, example, half=half)
            if set(again.groups) < set(failed.groups):
                follow, failed = frozenset(failed.groups), again
    if not (failed.groups or failed.blocks or follow):
        return graph
    return assemble(model, program, context, failed, follow)


def _propagate(model: nn.Module, program: ExportedProgram, example: Example) -> Context:
    context = Context(dict(model.named_modules(remove_duplicate=False)))
    _walk(context, model, program)
    if _unused(context):
        # an auxiliary head that only training runs must follow the trunk that it reads
        try:
            training, _ = capture(model, example, training=True)
        except ModelError:
            pass
        else:
            _walk(context, model, training)
    for name in _unused(context):
        context.whole_sites.setdefault(name.rpartition(".")[0], "not run in eval mode, so it is never cut")
    return context


def _unused(context: Context) -> list[str]:
    """Return the weights of layers that no captured program reads."""
    used = {name for node, name in context.leaves.items() if node.users}
    matrices = [name for node, name in context.leaves.items() if value_of(node).dim() > 1]
    return [name for name in dict.fromkeys(matrices) if name.endswith("weight") and name not in used]


def _walk(context: Context, model: nn.Module, program: ExportedProgram) -> None:
    signature = program.graph_signature
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
        elif node.op == "get_attr" or (node.target is operator.getitem and node.args[0] in context.computed):
            context.values[node] = blank(value_of(node))
        elif node.target is operator.getitem:
            held = context.values[node.args[0]]
            context.values[node] = held[node.args[1]] if isinstance(held, list) else blank(value_of(node))
        else:
            _apply(context, node)


def _apply(context: Context, node: Node) -> None:
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[-1] if schema else str(node.target)
    tensors = [
        source for source in node.all_input_nodes if context.is_weight(source) or source in context.values
    ]
    if not tensors or value_of(node) is None:
        context.values[node] = blank(value_of(node))
    elif computes_weight(context, node):
        compute_weight(context, node, name)
    elif name in RULES:
        RULES[name](context, node, Call(node))
    else:
        context.opaque(node, f"unknown op aten.{name} at {where(node)}")


def _canonical_names(model: nn.Module) -> dict[str, str]:
    """Map every name of a parameter or buffer to the first name of the same tensor."""
    first: dict[int, str] = {}
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: first.setdefault(id(tensor), name) for name, tensor in pairs}
