"""A network's cost as JSON, so that another process can price what was harvested here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from latency_model.errors import InputError
from latency_model.network import Axis, Channels, NetworkCost, OpSite, Site
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape

__all__ = ["network_from_json", "network_to_json"]

FORMAT_VERSION = 1
# Sizes beyond this are no network's; their products would leave 64-bit numbers.
_MOST = 2**31 - 1
_MOST_PARTS = 100_000

_T = TypeVar("_T")


def network_to_json(network: NetworkCost) -> dict[str, Any]:
    """Return a JSON-ready dictionary; ``network_from_json`` reads it back."""
    return {
        "format_version": FORMAT_VERSION,
        "name": network.name,
        "sites": [
            {
                "name": site.name,
                "shape": site.shape.text,
                "inputs": _channels(site.inputs),
                "outputs": _channels(site.outputs),
            }
            for site in network.sites
        ],
        "groups": dict(network.groups),
        "others": dict(network.others),
        "ops": [_op(op) for op in network.ops],
        "reorders": [_op(op) for op in network.reorders],
    }


def network_from_json(data: Any) -> NetworkCost:
    """Return the network that ``network_to_json`` wrote; ``InputError`` for anything else."""
    try:
        version = _count(data["format_version"])
        if version > FORMAT_VERSION:
            raise InputError("it was written by a later version of Gharial")
        return NetworkCost(
            _text(data["name"]),
            tuple(_each(data["sites"], _site)),
            {_text(name): _count(size) for name, size in data["groups"].items()},
            {_text(name): _count(size) for name, size in data["others"].items()},
            tuple(_each(data["ops"], _read_op)),
            tuple(_each(data["reorders"], _read_op)),
        )
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, OverflowError, InputError) as error:
        reason = f"nothing under {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"this is not a harvested network ({reason}); send what harvest returned") from error


def _channels(channels: Channels) -> list[Any]:
    return [channels.fixed, [list(term) for term in channels.terms]]


def _op(op: OpSite) -> dict[str, Any]:
    axes = [[axis.place, axis.dim, _channels(axis.channels), axis.side] for axis in op.axes]
    return {"name": op.name, "shape": op.shape.text, "axes": axes}


def _each(values: Any, read: Callable[[Any], _T]) -> list[_T]:
    if not isinstance(values, Sequence) or len(values) > _MOST_PARTS:
        raise InputError(f"a network has a list of up to {_MOST_PARTS} parts")
    return [read(value) for value in values]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"not a text: {value!r:.40}")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST:
        raise InputError(f"not a count: {value!r:.40}")
    return value


def _read_channels(value: Any) -> Channels:
    fixed, terms = value
    return Channels(_count(fixed), tuple((_text(group), _count(times)) for group, times in terms))


def _site(data: Mapping[str, Any]) -> Site:
    shape = ConvShape.parse(_text(data["shape"]))
    sizes = (shape.batch, shape.in_channels, shape.height, shape.width, shape.out_channels, *shape.kernel)
    for size in (*sizes, *shape.stride, *shape.padding, *shape.dilation):
        _count(size)
    inputs, outputs = _read_channels(data["inputs"]), _read_channels(data["outputs"])
    return Site(_text(data["name"]), shape, inputs, outputs)


def _read_op(data: Mapping[str, Any]) -> OpSite:
    shape = OpShape.parse(_text(data["shape"]))
    tensors = (*shape.inputs, *shape.weights)
    for size in (size for dims in tensors for size in dims):
        _count(size)
    axes = []
    for place, dim, channels, side in data["axes"]:
        if side not in ("in", "out"):
            raise InputError(f"not a side: {side!r:.40}")
        if not dim < len(tensors[_count(place)]):
            raise InputError(f"operator {shape.text} has no size number {_count(dim)}")
        axes.append(Axis(place, _count(dim), _read_channels(channels), side))
    return OpSite(_text(data["name"]), shape, tuple(axes))
