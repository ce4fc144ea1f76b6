"""Convolutions and linear layers: new labels for what they write, bound weights for what they read."""

from __future__ import annotations

from torch import nn
from torch.fx import Node

from pruner.graph.context import Call, Context, value_of, where
from pruner.graph.rules.registry import couple, rule

__all__: list[str] = []

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@rule("conv1d conv2d conv3d")
def _convolution(context: Context, node: Node, call: Call) -> None:
    source, weight, bias = call["input"], call["weight"], call["bias"]
    groups = call["groups"]
    name = context.layer(node, weight, _CONVOLUTIONS)
    if name is None and groups > 1 and value_of(weight).shape[:2] == (groups, 1):
        return _filter(context, node, source, weight, bias)
    if name is None:
        return context.whole_site(
            node, "conv", "a convolution outside of a module, or with a computed weight"
        )
    outputs, per_group = value_of(weight).shape[:2]
    inputs = context.along(source, 1)
    if groups == 1:
        kind, written = "conv", context.labels.new(outputs)
        context.bind(weight, 1, inputs)
    elif per_group == 1:
        # one filter (several with a multiplier) per input channel: output and input are one channel
        kind, written = "depthwise", inputs.repeat_interleave(outputs // groups)
    else:
        kind, written = "grouped", context.labels.new(outputs // groups).repeat(groups)
        first = couple(context, inputs.reshape(groups, per_group), where(node))
        context.bind(weight, 1, first)
    context.bind(weight, 0, written)
    context.close(weight, f"a weight mixes its axes at {where(node)}")
    context.bind(bias, 0, written)
    context.add_site(name, kind, inputs, written)
    context.values[node] = written.reshape(1, -1, *[1] * (value_of(node).dim() - 2))
    return None


def _filter(context: Context, node: Node, source: Node, weight: Node, bias: Node | None) -> None:
    """One filter for each channel outside of a layer, such as the blur before a stride: no layer, no site."""
    written = context.along(source, 1)
    context.bind(weight, 0, written)
    context.close(weight, f"a weight mixes its axes at {where(node)}")
    context.bind(bias, 0, written)
    context.note_sizes(node, (len(written),), (written,))
    context.values[node] = written.reshape(1, -1, *[1] * (value_of(node).dim() - 2))


@rule("conv_transpose1d conv_transpose2d conv_transpose3d")
def _transposed(context: Context, node: Node, call: Call) -> None:
    source, weight, bias, groups = call["input"], call["weight"], call["bias"], call["groups"]
    name = context.layer(node, weight, _TRANSPOSED)
    if name is None:
        return context.whole_site(
            node, "conv", "a convolution outside of a module, or with a computed weight"
        )
    total, per_group = value_of(weight).shape[:2]
    inputs = context.along(source, 1)
    context.bind(weight, 0, inputs)
    if groups == total:
        kind, written = "depthwise", inputs.repeat_interleave(per_group)
    else:
        kind, one = "transposed", context.labels.new(per_group)
        written = one.repeat(groups)
        context.bind(weight, 1, one)
        if groups > 1:
            couple(context, inputs.reshape(groups, -1), where(node))
    context.bind(bias, 0, written)
    context.add_site(name, kind, inputs, written)
    context.values[node] = written.reshape(1, -1, *[1] * (value_of(node).dim() - 2))
    return None


@rule("linear")
def _linear(context: Context, node: Node, call: Call) -> None:
    source, weight, bias = call["input"], call["weight"], call["bias"]
    name = context.layer(node, weight, (nn.Linear,))
    if name is None:
        return context.whole_site(node, "linear", "a matrix product outside of a Linear module")
    inputs = context.along(source, -1)
    written = context.labels.new(value_of(weight).shape[0])
    context.bind(weight, 1, inputs)
    context.bind(weight, 0, written)
    context.close(weight, f"a weight mixes its axes at {where(node)}")
    context.bind(bias, 0, written)
    context.add_site(name, "linear", inputs, written)
    context.values[node] = written.reshape(*[1] * (value_of(node).dim() - 1), -1)
    return None
