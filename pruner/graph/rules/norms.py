"""Norms: they keep the labels of what they read and bind their own parameters."""

from __future__ import annotations

from torch.fx import Node

from pruner.graph.context import Call, Context, value_of, where
from pruner.graph.labels import fixed
from pruner.graph.rules.registry import couple, rule

__all__: list[str] = []


@rule("batch_norm instance_norm _native_batch_norm_legit_no_training")
def _batch_norm(context: Context, node: Node, call: Call) -> None:
    labels = context.along(call["input"], 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        context.bind(call.get(name), 0, labels)
    value = value_of(node)
    shaped = labels.reshape(1, -1, *[1] * (value_of(call["input"]).dim() - 2))
    context.values[node] = [shaped, fixed(1), fixed(1)] if isinstance(value, list | tuple) else shaped


@rule("layer_norm")
def _layer_norm(context: Context, node: Node, call: Call) -> None:
    source = call["input"]
    if len(call["normalized_shape"]) != 1:
        return context.opaque(node, f"a layer norm over several axes at {where(node)}")
    labels = context.along(source, -1)
    context.bind(call["weight"], 0, labels)
    context.bind(call["bias"], 0, labels)
    context.normalised.append(labels)
    context.values[node] = labels.reshape(*[1] * (value_of(source).dim() - 1), -1)
    return None


@rule("group_norm")
def _group_norm(context: Context, node: Node, call: Call) -> None:
    source = call["input"]
    labels = context.along(source, 1)
    # the channels of a norm's groups are divided evenly, so the groups shrink alike
    couple(context, labels.reshape(call["num_groups"], -1), where(node))
    context.bind(call["weight"], 0, labels)
    context.bind(call["bias"], 0, labels)
    context.normalised.append(labels)
    context.values[node] = labels.reshape(1, -1, *[1] * (value_of(source).dim() - 2))
