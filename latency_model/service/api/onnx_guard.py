"""What an uploaded ONNX model is refused for before anything is made of it.

Runs in the process that reads models (``service.harvester``): walking the fields takes time, and what passes is still
somebody else's file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from latency_model.errors import ModelError

__all__ = ["check_encoding", "check_tensors"]

# An empty message takes two bytes in the file and over a hundred in memory.
_MOST_FIELDS = 1_000_000
_MESSAGE = 11  # FieldDescriptor.TYPE_MESSAGE
_EXTERNAL = 1  # TensorProto.EXTERNAL


@cache
def _messages(descriptor: Any) -> Mapping[int, Any]:
    """Return the fields of a kind of message that are messages themselves."""
    return {f.number: f.message_type for f in descriptor.fields if f.type == _MESSAGE}


def check_encoding(data: bytes, descriptor: Any, *, most_depth: int, most_fields: int = _MOST_FIELDS) -> None:
    """Raise ``ModelError`` unless ``data`` is a well-formed message of ``descriptor`` within the limits.

    Well-formed: every length lies within the message that holds it. Unknown fields are passed over.
    """
    stack = [(0, len(data), descriptor)]
    fields = 0
    while stack:
        at, end, kind = stack.pop()
        within = _messages(kind) if kind is not None else {}
        while at < end:
            fields += 1
            if fields > most_fields:
                raise ModelError(f"the ONNX model has more than {most_fields} fields beside its weights")
            key, at = _number(data, at, end)
            wire = key & 7
            if wire == 0:
                _, at = _number(data, at, end)
            elif wire == 2:
                length, at = _number(data, at, end)
                if length > end - at:
                    raise ModelError(_unreadable("a field is longer than what holds it"))
                below = within.get(key >> 3)
                if below is not None and length:
                    # This message goes on after the one within it.
                    stack.append((at + length, end, kind))
                    if len(stack) > most_depth:
                        raise ModelError(f"the ONNX model nests messages deeper than {most_depth} levels")
                    end, kind = at + length, below
                    within = _messages(kind)
                    continue
                at += length
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
                if at > end:
                    raise ModelError(_unreadable("it ends inside a number"))
            else:
                raise ModelError(_unreadable("it has a field of no known kind"))


def _number(data: bytes, at: int, end: int) -> tuple[int, int]:
    number = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
    raise ModelError(_unreadable("a number has no end"))


def _unreadable(reason: str) -> str:
    return f"the model cannot be read as ONNX ({reason}); export it again"


def check_tensors(message: Any) -> None:
    """Raise ``ModelError`` when any tensor within a parsed model lies in a file of its own.

    Such a tensor names a path, and a path in a model that somebody sent says where to read on this machine.
    """
    for tensor in _tensors(message):
        if tensor.data_location == _EXTERNAL or len(tensor.external_data):
            raise ModelError(
                f"the tensor {tensor.name[:80]!r} lies in a file beside the ONNX model, which was not sent; save the "
                "model with its weights inside, or harvest it where it is"
            )


def _tensors(message: Any) -> Iterator[Any]:
    stack = [message]
    while stack:
        found = stack.pop()
        if found.DESCRIPTOR.name == "TensorProto":
            yield found
            continue
        for field, value in found.ListFields():
            if field.type == _MESSAGE:
                stack.extend([value] if _single(field) else value)


def _single(field: Any) -> bool:
    repeated = getattr(field, "is_repeated", None)
    return not repeated if repeated is not None else field.label != 3  # LABEL_REPEATED
