"""What TensorRT made of a graph: the layers of an engine, and whether a convolution was fused as asked.

Two sources give the same facts. The engine inspector writes JSON; it needs a deserialised engine, hence a device.
The builder logs the inspector's one-line form of each layer when it has finished, without a device. Both are read
here. Without a device TensorRT-RTX has fused the layers already, but chooses the kernel of each convolution only on
the device that runs the engine: its tactic is then a placeholder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_model.errors import MeasurementError
from latency_model.shapes import ConvShape

__all__ = [
    "EngineLayer",
    "Fusion",
    "fused_pattern",
    "layers_from_json",
    "layers_from_log",
    "merged",
    "reformats",
]

LOG_START = "Layers:"

_FIELDS = re.compile(r"(Name|LayerType|Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ")
_ORIGIN = re.compile(r"\[(?:ONNX Layer: )?([^\[\]\x1e]+)\]")
_SHORT = re.compile(r"\((?P<format>\w+)\)")
_TENSOR = re.compile(
    r"Name: (?P<name>.*?), Dimensions.*?Datatype: (?P<type>\w+), Format: \((?P<format>\w+)\)"
)
# A kernel that Myelin generates is named after its operations, four letters each.
_GENERATED = re.compile(r"__myl_(?P<words>[A-Z][A-Za-z]*?)_")
_MOVES = re.compile(r"(?:Move|Tran|Resh|Slic|Conc|Copy|Pad)+")
_OF_COPY = re.compile(r"(?P<part>conv|sum|gate|act|quant)(?P<copy>\d+)")
_CONVOLUTION = re.compile(r"(?:conv|out)\w*")


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine: one kernel, as a rule.

    ``operators`` are the names of the graph's operators that it executes, ``formats`` those of its outputs, as
    ``Half NHWC``, and ``reads`` those of its inputs. ``tactic`` is the name of the kernel, or what stands for it
    until a device is known.
    """

    name: str
    kind: str
    tactic: str
    formats: tuple[str, ...]
    operators: tuple[str, ...]
    reads: tuple[str, ...] = ()
    stream: int = 0

    @property
    def moves_data(self) -> bool:
        """Whether it only changes the layout, the type or the padding of a tensor."""
        if self.kind.lower() in ("reformat", "noop"):
            return True
        generated = _GENERATED.match(self.name)
        return bool(generated and _MOVES.fullmatch(generated["words"]))


@dataclass(frozen=True, slots=True)
class Fusion:
    """How one copy of a convolution is executed.

    ``pattern`` is what the layer that holds the convolution executes, ``layers`` are all layers that compute a
    part of the copy, and ``fused`` says whether that is one layer with everything. ``reads`` is the type and format
    of what the convolution reads: where an int8 convolution reads floats, TensorRT does not compute it in int8.
    """

    fused: bool
    pattern: str
    layers: tuple[str, ...]
    reads: str = ""


def layers_from_json(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers in the inspector's JSON (``get_engine_information``)."""
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError("the engine inspector gave no list of layers in JSON") from error
    if any(not isinstance(entry, Mapping) for entry in entries):
        raise MeasurementError(
            "the engine holds only the names of its layers; build it with detailed profiling verbosity"
        )
    return tuple(_from_mapping(entry) for entry in entries)


def _from_mapping(entry: Mapping[str, Any]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    return EngineLayer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        tactic=str(entry.get("TacticName", entry.get("TacticValue", ""))),
        formats=_tensors(entry.get("Outputs", ())),
        operators=_operators(str(entry.get("Metadata", "")), name),
        reads=_tensors(entry.get("Inputs", ())),
        stream=int(entry.get("StreamId", 0)),
    )


def _tensors(entries: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    found = []
    for tensor in entries:
        # TensorRT 10 writes type and format into one field, in words; later versions write (NHWC) before the words.
        words = str(tensor.get("Format/Datatype", tensor.get("Format", "")))
        short = _SHORT.match(words)
        kind = tensor.get("Datatype", tensor.get("DataType", ""))
        found.append(f"{kind} {short['format'] if short else words}".strip())
    return tuple(found)


def layers_from_log(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers in what the builder logs of a finished engine (a message that begins ``Layers:``)."""
    layers = []
    for line in text.splitlines():
        if line.startswith("I/O Tensors"):
            break
        if line.startswith("Name: "):
            layers.append(_from_line(line))
    if not layers:
        raise MeasurementError(
            "the builder did not log the layers of the engine, so what it fused is unknown; "
            "inspect the engine on a device"
        )
    return tuple(layers)


def _from_line(line: str) -> EngineLayer:
    fields = _top_level(line)
    return EngineLayer(
        name=fields["Name"],
        kind=fields.get("LayerType", ""),
        tactic=fields.get("TacticName", ""),
        formats=_listed(fields.get("Outputs", "")),
        operators=_operators(fields.get("Metadata", ""), fields["Name"]),
        reads=_listed(fields.get("Inputs", "")),
        stream=int(fields.get("StreamId") or 0),
    )


def _listed(text: str) -> tuple[str, ...]:
    return tuple(f"{match['type']} {match['format']}" for match in _TENSOR.finditer(text))


def _top_level(line: str) -> dict[str, str]:
    """Split ``Name: a, Inputs: [ { Name: b } ], …`` at the fields that are outside brackets."""
    depth, starts = 0, []
    for position, letter in enumerate(line):
        depth += (letter in "[{") - (letter in "]}")
        if (
            depth == 0
            and (match := _FIELDS.match(line, position))
            and (position == 0 or line[position - 1] == " ")
        ):
            starts.append((match[1], position, match.end()))
    ends = [start for _, start, _ in starts[1:]] + [len(line)]
    return {
        field: line[begin:end].strip().removesuffix(",")
        for (field, _, begin), end in zip(starts, ends, strict=True)
    }


def _operators(metadata: str, name: str) -> tuple[str, ...]:
    # Without metadata the name of a fused layer lists its operators: conv0 + PWN(gate0, act0).
    found = _ORIGIN.findall(metadata) or re.findall(r"[A-Za-z]\w*", "" if name.startswith("__") else name)
    return tuple(dict.fromkeys(found))


def fused_pattern(layers: Sequence[EngineLayer], shape: ConvShape, *, copy: int = 0) -> Fusion:
    """Say how copy number ``copy`` of ``shape`` is executed, in a graph whose operators are named as ours are.

    The names are those of ``conv_copies`` and ``conv_network``: conv0, sum0, gate0, act0, quant0. Layers that
    only move data do not count. Raises ``MeasurementError`` when no layer executes the copy.
    """
    holding: dict[str, set[str]] = {}
    reads = ""
    for layer in layers:
        parts = {
            match["part"]
            for operator in layer.operators
            if (match := _OF_COPY.fullmatch(operator)) and int(match["copy"]) == copy
        }
        if parts and not layer.moves_data:
            holding[layer.name] = parts
            if "conv" in parts and not reads and layer.reads:
                reads = layer.reads[0]
    first = next((parts for parts in holding.values() if "conv" in parts), None)
    if first is None:
        raise MeasurementError(f"the engine has no layer that executes copy {copy} of {shape}")
    # A bias has no operator of its own: where another layer holds the convolution too, that one adds it.
    apart = sum("conv" in parts for parts in holding.values()) > 1
    here = []
    for part in shape.pattern.split("+"):
        operator = {"conv": "conv", "bias": "conv", "add": "sum"}.get(part, "act")
        if operator in first and not (part == "bias" and apart):
            here.append(part)
    pattern = "+".join(here)
    return Fusion(len(holding) == 1 and pattern == shape.pattern, pattern, tuple(holding), reads)


def reformats(layers: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Return the layers that only move data."""
    return tuple(layer for layer in layers if layer.moves_data)


def merged(layers: Sequence[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Return the layers that compute several of the graph's convolutions at once: copies merged horizontally."""
    return tuple(
        layer
        for layer in layers
        if not layer.moves_data and sum(bool(_CONVOLUTION.fullmatch(name)) for name in layer.operators) > 1
    )
