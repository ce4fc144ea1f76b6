"""The layers of a TensorRT engine as TensorRT itself describes them, without TensorRT.

Two sources give the same facts. The engine inspector writes JSON; it needs a deserialised engine, hence a device.
The builder logs the inspector's one-line form of each layer when it has finished, without a device.

The lines were read off TensorRT-RTX 1.7. The JSON follows NVIDIA's documentation of versions 10 and 11 (the page
on migrating ``IEngineInspector``) and layer files that others published: none was written on a device of ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latency_model.errors import MeasurementError

__all__ = ["LOG_START", "EngineLayer", "EngineTensor", "layers_from_json", "layers_from_log"]

LOG_START = "Layers:"

_FIELDS = re.compile(r"(Name|LayerType|Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ")
# A name may have brackets of its own, so that only the next name or the end closes one; a word may follow it
# (__gemm_from_conv1x1).
_ORIGIN = re.compile(r"\[(?:ONNX Layer: )?([^\x1e\x1f]+?)\](?=\w*(?:$|[\[\x1e\x1f]))")
_JOINTS = re.compile(r"\s\+\s|\s\|\|\s|,\s|PWN\(|\{ForeignNode\[|\.\.\.|[()]|\]\}")
_SHORT = re.compile(r"\((?P<format>\w+)\)")
_TENSOR = re.compile(
    r"Name: (?P<name>.*?), Dimensions: \[(?P<dims>[^\]]*)\].*?"
    r"Datatype: (?P<type>\w+), Format: \((?P<format>\w+)\)"
)
# A kernel that Myelin generates is named after its operations, four letters each.
_GENERATED = re.compile(r"__myl_(?P<words>[A-Z][A-Za-z]*?)_")
_MOVES = re.compile(r"(?:Move|Tran|Resh|Slic|Conc|Copy|Pad)+")
_PRECISIONS = {
    "fp16": re.compile(r"\b(?:Half|FP16)\b"),
    "bf16": re.compile(r"\b(?:BFloat16|BF16)\b"),
    "fp32": re.compile(r"\b(?:Float|FP32)\b"),
    "int8": re.compile(r"\b(?:Int8|INT8)\b"),
}


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """A tensor that a layer reads or writes; ``format`` is its type and layout, as ``Half NHWC``.

    ``dims`` are empty where they are not given. They may be padded, 3 channels to 4, and ``name`` is that of an
    ONNX value only sometimes.
    """

    name: str
    dims: tuple[int, ...]
    format: str

    @property
    def precision(self) -> str:
        """One of a table's precisions, empty for another type. Of fp32 it is not known whether tf32 is meant."""
        return next((name for name, word in _PRECISIONS.items() if word.search(self.format)), "")


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of an engine: one kernel, as a rule.

    ``operators`` are the names of the graph's operators that it executes, ``formats`` those of its outputs, as
    ``Half NHWC``, and ``reads`` those of its inputs. ``tactic`` is the name of the kernel, or what stands for it
    until a device is known. ``inputs`` and ``outputs`` are its tensors, constants left out.
    """

    name: str
    kind: str
    tactic: str
    formats: tuple[str, ...]
    operators: tuple[str, ...]
    reads: tuple[str, ...] = ()
    stream: int = 0
    inputs: tuple[EngineTensor, ...] = ()
    outputs: tuple[EngineTensor, ...] = ()

    @property
    def moves_data(self) -> bool:
        """Whether it only changes the layout, the type or the padding of a tensor."""
        if self.kind.lower() in ("reformat", "noop"):
            return True
        words = self.generated
        return bool(words and _MOVES.fullmatch(words))

    @property
    def generated(self) -> str:
        """The operations of a generated kernel, as ``MulAddRelu``; empty for any other."""
        found = _GENERATED.match(self.name)
        return found["words"] if found else ""


def layers_from_json(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers in the inspector's JSON (``get_engine_information``, ``trtexec --exportLayerInfo``).

    Raises ``MeasurementError`` for text that is no such JSON or has no more than the layers' names.
    """
    try:
        entries = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError("the engine inspector gave no list of layers in JSON") from error
    if not isinstance(entries, list) or any(not isinstance(entry, Mapping) for entry in entries):
        raise MeasurementError(
            "the engine holds only the names of its layers; build it with detailed profiling verbosity"
        )
    return tuple(_from_mapping(entry) for entry in entries)


def _from_mapping(entry: Mapping[str, Any]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    inputs, outputs = _tensors(entry.get("Inputs", ())), _tensors(entry.get("Outputs", ()))
    return EngineLayer(
        name=name,
        kind=str(entry.get("LayerType", "")),
        tactic=str(entry.get("TacticName", entry.get("TacticValue", ""))),
        formats=tuple(tensor.format for tensor in outputs),
        operators=_operators(str(entry.get("Metadata", "")), name),
        reads=tuple(tensor.format for tensor in inputs),
        stream=int(entry.get("StreamId", 0)),
        inputs=inputs,
        outputs=outputs,
    )


def _tensors(entries: Sequence[Mapping[str, Any]]) -> tuple[EngineTensor, ...]:
    found = []
    for tensor in entries:
        # TensorRT 10 writes type and format into one field, in words; later versions write (NHWC) before the words.
        words = str(tensor.get("Format/Datatype", tensor.get("Format", "")))
        short = _SHORT.match(words)
        kind = tensor.get("Datatype", tensor.get("DataType", ""))
        dims = tuple(int(size) for size in tensor.get("Dimensions", ()))
        text = f"{kind} {short['format'] if short else words}".strip()
        found.append(EngineTensor(str(tensor.get("Name", "")), dims, text))
    return tuple(found)


def layers_from_log(text: str) -> tuple[EngineLayer, ...]:
    """Return the layers in what the builder logs of a finished engine (a message that begins ``Layers:``).

    Raises ``MeasurementError`` when there are none.
    """
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
    inputs, outputs = _listed(fields.get("Inputs", "")), _listed(fields.get("Outputs", ""))
    return EngineLayer(
        name=fields["Name"],
        kind=fields.get("LayerType", ""),
        tactic=fields.get("TacticName", ""),
        formats=tuple(tensor.format for tensor in outputs),
        operators=_operators(fields.get("Metadata", ""), fields["Name"]),
        reads=tuple(tensor.format for tensor in inputs),
        stream=int(fields.get("StreamId") or 0),
        inputs=inputs,
        outputs=outputs,
    )


def _listed(text: str) -> tuple[EngineTensor, ...]:
    return tuple(
        EngineTensor(
            match["name"],
            tuple(int(size) for size in match["dims"].split(",") if size.strip()),
            f"{match['type']} {match['format']}",
        )
        for match in _TENSOR.finditer(text)
    )


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
    # Without metadata the name of a fused layer lists its operators: conv0 + PWN(gate0, act0), a || b. Of a
    # region ({ForeignNode[a...b]}) it has the ends only.
    found = _ORIGIN.findall(metadata)
    if not found and not name.startswith(("__", "Reformatting CopyNode")):
        found = [part.strip() for part in _JOINTS.split(name)]
    return tuple(dict.fromkeys(part for part in found if part))
