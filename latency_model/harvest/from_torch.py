"""Read the operators of a torch module from its exported graph."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import Node

from latency_model.errors import ModelError
from latency_model.harvest.graph import RESHAPES, Graph, Op, unique
from latency_model.harvest.torch_details import details
from latency_model.shapes import ConvShape

__all__ = ["read_module"]

# In evaluation mode these hand on their input as it is.
_NOTHING = frozenset(
    {"dropout", "feature_dropout", "alpha_dropout", "identity", "alias", "detach", "clone", "contiguous"}
)
_KINDS = {
    "hardtanh": "clip",
    "relu6": "clip",
    "clamp": "clip",
    "cudnn_batch_norm": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "chunk": "split",
    "split_with_sizes": "split",
    "upsample_nearest2d": "resize",
    "upsample_bilinear2d": "resize",
    "upsample_bicubic2d": "resize",
    "rsub": "sub",
}
_PRECISIONS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
_CONV2D = ("conv2d", "_convolution", "convolution")


def read_module(module: nn.Module, input_shape: tuple[int, int, int], *, batch: int, name: str) -> Graph:
    """Return the operators of ``module`` in evaluation mode on an image batch ``(batch, *input_shape)``.

    Nothing is computed: the trace runs on shapes alone. The training flags are as before afterwards.
    """
    training = [part for part in module.modules() if part.training]
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    dtype = parameter.dtype if parameter is not None else torch.float32
    module.eval()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            example = torch.empty(batch, *input_shape, device=device, dtype=dtype)
            program = torch.export.export(module, (example,), strict=False)
    except Exception as error:  # the exporter has a tree of errors of its own, most of them not public
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{name} cannot be traced with one image batch of {batch}x{'x'.join(map(str, input_shape))}: "
            f"{reason}"
        ) from error
    finally:
        for part in training:
            part.training = True
    return _Reader(program).graph()


class _Reader:
    def __init__(self, program: Any) -> None:
        signature = program.graph_signature
        self.nodes = list(program.graph.nodes)
        self.weights = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.user_inputs = set(signature.user_inputs)
        self.names: Counter[str] = Counter()
        self.values: dict[Node, str] = {}  # activations only
        self.ops: list[Op] = []
        self.sizes: dict[str, tuple[int, ...]] = {}

    def graph(self) -> Graph:
        inputs: list[str] = []
        outputs: tuple[str, ...] = ()
        for node in self.nodes:
            if node.op == "placeholder" and node.name in self.user_inputs:
                self.values[node] = node.name
                self.sizes[node.name] = _dims(node)
                inputs.append(node.name)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = tuple(self._activations(node))
        return Graph(tuple(self.ops), tuple(inputs), outputs, self.sizes)

    def _activations(self, node: Node) -> list[str]:
        """Return the activations among the arguments of ``node``, in order, repeated as often as given."""
        found: list[str] = []

        def visit(argument: Any) -> None:
            if isinstance(argument, Node):
                if argument in self.values:
                    found.append(self.values[argument])
            elif isinstance(argument, list | tuple):
                for entry in argument:
                    visit(entry)

        visit(list(node.args))
        visit(list(node.kwargs.values()))
        return found

    def _call(self, node: Node) -> None:
        kind = _kind(node)
        inputs = tuple(self._activations(node))
        if not inputs:
            return  # computed from weights and constants alone: folded before the network runs
        if kind in _NOTHING or (kind == "cat" and len(inputs) == 1):
            self.values[node] = inputs[0]
            return
        self.values[node] = node.name
        self.sizes[node.name] = _dims(node)
        site, conv = "", None
        if kind in _CONV2D and len(_dims(node.args[0])) == 4 and not _transposed(node, kind):
            site, conv = unique(self._site(node), self.names), _shape(node)
            inputs = inputs[:1]
        elif kind in _CONV2D:
            kind = "conv_transpose" if _transposed(node, kind) else f"conv{len(_dims(node)) - 2}d"
        if conv is not None or kind in RESHAPES:
            self.ops.append(Op(kind, inputs, (node.name,), _dims(node), site, conv))
            return
        weights, attributes = details(node, kind, sizes=_dims, active=self._active)
        kind = "transpose" if kind == "permute" else kind
        name = unique(self._site(node) if kind == "linear" else node.name, self.names)
        precision = _precision(node)
        self.ops.append(
            Op(kind, inputs, (node.name,), _dims(node), "", None, name, weights, attributes, precision)
        )

    def _active(self, argument: Any) -> bool:
        return isinstance(argument, Node) and argument in self.values

    def _site(self, node: Node) -> str:
        weight = node.args[1]
        path = self.weights.get(getattr(weight, "name", ""), "")
        if path.endswith(".weight"):
            return str(path.removesuffix(".weight"))
        stack = node.meta.get("nn_module_stack") or {}
        inner = next(reversed(stack.values()), ("",)) if stack else ("",)
        return str(inner[0] or node.name)


def _kind(node: Node) -> str:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    name = str(schema.name).partition("::")[2]
    name = name.removesuffix("_")  # the in-place form
    return _KINDS.get(name, name)


def _dims(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val") if isinstance(node, Node) else None
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()


def _precision(node: Any) -> str:
    value = node.meta.get("val")
    return _PRECISIONS.get(value.dtype, "fp32") if isinstance(value, torch.Tensor) else ""


def _argument(node: Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _transposed(node: Node, kind: str) -> bool:
    return kind != "conv2d" and bool(_argument(node, 6, False))


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, Sequence):
        return int(value[0]), int(value[-1])
    return int(value), int(value)


def _shape(node: Node) -> ConvShape:
    source, weight = node.args[0], node.args[1]
    assert isinstance(source, Node)
    assert isinstance(weight, Node)
    batch, channels, height, width = _dims(source)
    out_channels, per_group, *kernel = _dims(weight)
    stride = _pair(_argument(node, 3, 1))
    dilation = _pair(_argument(node, 5, 1))
    padding = _argument(node, 4, 0)
    if padding == "same":
        total = [dilation[axis] * (kernel[axis] - 1) for axis in (0, 1)]
        before = [size // 2 for size in total]  # torch puts the odd one at the end
        pads = (before[0], before[1], total[0] - before[0], total[1] - before[1])
    else:
        vertical, horizontal = (0, 0) if padding == "valid" else _pair(padding)
        pads = (vertical, horizontal, vertical, horizontal)
    bias = _argument(node, 2, node.kwargs.get("bias"))
    return ConvShape(
        batch=batch,
        in_channels=channels,
        height=height,
        width=width,
        out_channels=out_channels,
        kernel=(kernel[0], kernel[1]),
        stride=stride,
        padding=pads,
        dilation=dilation,
        groups=channels // per_group,
        pattern="conv" if bias is None else "conv+bias",
        precision=_precision(node),
    )
