"""From the plain description of a network to its cost: what a file of measured networks has instead of a graph.

A description is a mapping with ``batch``, ``precision``, and either ``model``, a name that ``zoo.load_model``
knows, or ``family`` (``resnet``, ``vgg`` or ``mobilenet``) with the widths of that family. Convolutions have a
bias (a batch norm is folded), padding of half the kernel, and square images of ``input`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from latency_model.errors import InputError
from latency_model.harvest.fusion import fuse
from latency_model.harvest.graph import Graph, Op
from latency_model.harvest.rewrite import rewritten
from latency_model.network import NetworkCost
from latency_model.shapes import PRECISIONS, ConvShape

__all__ = ["network_of_spec"]

_FAMILIES = ("resnet", "vgg", "mobilenet")
_SMALL = 64  # images below this many pixels get a 3x3 stem and no pooling after it
_Value = tuple[str, int, int]  # its name, its channels, and its height, which is its width too


def network_of_spec(spec: Mapping[str, Any], *, name: str = "", layout: str = "nhwc") -> NetworkCost:
    """Return the cost of the network that ``spec`` describes, at full width.

    Raises ``InputError`` for a description that lacks a part or has one of the wrong kind, and what
    ``zoo.load_model`` raises for a model that it does not know.
    """
    if "model" in spec:
        return _named(spec, layout)
    family = spec.get("family")
    if family not in _FAMILIES:
        raise InputError(f"unknown network family {family!r}; known are {', '.join(_FAMILIES)}, or a model")
    title = name or str(family)
    try:
        graph = _Builder(spec).graph()
    except KeyError as error:
        raise InputError(f"the description of network {title} lacks {error}; a {family} needs it") from error
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the description of network {title} cannot be read ({error}); correct it"
        ) from error
    precision = str(spec["precision"])
    found = fuse(rewritten(graph), precision=precision, layout=layout)
    return NetworkCost(title, found.sites, found.groups, found.others, found.ops, found.reorders)


def _named(spec: Mapping[str, Any], layout: str) -> NetworkCost:
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model  # imports torch

    batch, precision = spec.get("batch"), spec.get("precision")
    if not isinstance(batch, int) or precision not in PRECISIONS:
        raise InputError(
            f"the description of {spec['model']} needs a batch and one of {', '.join(PRECISIONS)}"
        )
    return harvest(load_model(str(spec["model"]), seed=0), batch=batch, precision=precision, layout=layout)


class _Builder:
    """A growing graph; every layer takes and returns a value."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec, self.ops = spec, list[Op]()
        self.batch, self.image = int(spec["batch"]), int(spec["input"])
        self.precision = str(spec["precision"])
        self.sizes: dict[str, tuple[int, ...]] = {"x": (self.batch, 3, self.image, self.image)}

    def graph(self) -> Graph:
        family = self.spec["family"]
        made = {"vgg": self._vgg, "resnet": self._resnet, "mobilenet": self._mobilenet}[family]
        channels = (value := made(("x", 3, self.image)))[1]
        classes = int(self.spec.get("classes", 1000))
        pooled = self._op("global_avg_pool2d", [value[0]], (self.batch, channels, 1, 1))
        flat = self._op("flatten", [pooled], (self.batch, channels))
        out = self._op("linear", [flat], (self.batch, classes), weights=((classes, channels), (classes,)))
        return Graph(tuple(self.ops), ("x",), (out,), self.sizes)

    def _op(self, kind: str, inputs: Sequence[str], dims: tuple[int, ...], **fields: Any) -> str:
        name = f"{kind}{len(self.ops)}"
        self.ops.append(Op(kind, tuple(inputs), (name,), dims, name=name, precision=self.precision, **fields))
        self.sizes[name] = dims
        return name

    def _conv(
        self, x: _Value, width: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True
    ) -> _Value:
        name, channels, height = x
        pad = kernel // 2
        shape = ConvShape(
            self.batch, channels, height, height, int(width), (kernel, kernel), (stride, stride),
            (pad, pad, pad, pad), (1, 1), groups, "conv+bias", self.precision,
        )  # fmt: skip
        dims = (self.batch, shape.out_channels, shape.out_height, shape.out_width)
        out = self._op("conv", [name], dims, conv=shape, site=f"conv{len(self.ops)}")
        return (self._op("relu", [out], dims) if relu else out), dims[1], dims[2]

    def _add(self, x: _Value, y: _Value, *, relu: bool) -> _Value:
        dims = (self.batch, x[1], x[2], x[2])
        out = self._op("add", [x[0], y[0]], dims)
        return (self._op("relu", [out], dims) if relu else out), x[1], x[2]

    def _maxpool(self, x: _Value, kernel: int, stride: int, pad: int) -> _Value:
        height = (x[2] + 2 * pad - kernel) // stride + 1
        attributes = {
            "kernel_shape": f"{kernel},{kernel}",
            "strides": f"{stride},{stride}",
            "pads": ",".join([str(pad)] * 4),
        }
        dims = (self.batch, x[1], height, height)
        return self._op("max_pool2d", [x[0]], dims, attributes=attributes), x[1], height

    def _vgg(self, x: _Value) -> _Value:
        for stage in self.spec["widths"]:
            for width in stage:
                x = self._conv(x, width, 3)
            x = self._maxpool(x, 2, 2, 0)
        return x

    def _resnet(self, x: _Value) -> _Value:
        small = self.image < _SMALL
        x = self._conv(x, self.spec["stem"], 3 if small else 7, stride=1 if small else 2)
        x = x if small else self._maxpool(x, 3, 2, 1)
        layers = {"basic": self._basic, "bottleneck": self._bottleneck}
        if self.spec["block"] not in layers:
            raise ValueError(f"no residual block {self.spec['block']!r}, only {' and '.join(layers)}")
        layer = layers[self.spec["block"]]
        for i, (stream, blocks) in enumerate(zip(self.spec["stream"], self.spec["inner"], strict=True)):
            for j, widths in enumerate(cast(Sequence[Sequence[int]], blocks)):
                stride = 2 if j == 0 and i > 0 else 1
                plain = j > 0 or (stride == 1 and x[1] == stream)
                skip = x if plain else self._conv(x, stream, 1, stride=stride, relu=False)
                x = self._add(layer(x, widths, stream, stride), skip, relu=True)
        return x

    def _basic(self, x: _Value, widths: Sequence[int], stream: int, stride: int) -> _Value:
        return self._conv(self._conv(x, widths[0], 3, stride=stride), stream, 3, relu=False)

    def _bottleneck(self, x: _Value, widths: Sequence[int], stream: int, stride: int) -> _Value:
        inner = self._conv(self._conv(x, widths[0], 1), widths[1], 3, stride=stride)
        return self._conv(inner, stream, 1, relu=False)

    def _mobilenet(self, x: _Value) -> _Value:
        x = self._conv(x, self.spec["stem"], 3, stride=2)
        for expand, out, stride in self.spec["blocks"]:
            y = self._conv(x, expand, 1) if expand != x[1] else x
            y = self._conv(y, expand, 3, stride=stride, groups=expand)
            y = self._conv(y, out, 1, relu=False)
            x = self._add(y, x, relu=False) if stride == 1 and out == x[1] else y
        return self._conv(x, self.spec["last"], 1)
