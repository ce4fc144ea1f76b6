"""An ONNX file without its weights, made while its bytes arrive.

What a network costs depends on the sizes of its weights, not on their values, and they are nearly all of the file: a
ResNet-50 of 102 MB has a skeleton of about 100 kB, whose harvest is the same. So a hundred megabytes are neither
kept, nor hashed, nor parsed.

The encoding is that of protocol buffers: a message is a sequence of fields, each with its number, its kind and, for
texts, bytes and messages within, its length. Only messages on the way to a tensor are looked into, and of these only
large ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from latency_model.errors import ModelError

__all__ = ["Skeleton", "skeleton_of", "varint"]

# Fields of up to so many bytes are kept whole, whatever is in them. Constants whose values decide sizes are smaller.
_SMALL = 1024
_MOST_VARINT = 10
# Each takes a microsecond or two; models have some thousands of operators and weights.
_MOST_FIELDS = 200_000
# The messages that hold tensors, by the numbers of their fields in onnx.proto.
_WITHIN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DATA_TYPE = 2
# float_data, int32_data (which has 16-bit floats), raw_data, double_data.
_VALUES = frozenset({4, 5, 9, 10})
# FLOAT, FLOAT16, DOUBLE, BFLOAT16 and the 8-bit floats: integers may be sizes, and are kept.
_FLOATS = frozenset({1, 10, 11, 16, 17, 18, 19, 20})


def varint(number: int) -> bytes:
    """Return the variable-length form of a number that is not negative."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


@dataclass(slots=True)
class _Message:
    """A message that is being read; ``end`` is its last place in the file, None where only the file's end says."""

    kind: str
    end: int | None
    tag: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    data_type: int = 0


class Skeleton:
    """Takes the bytes of an ONNX file as they come and gives the file without its large weights.

    ``most_bytes`` limits the file, ``most_kept`` what is left of it, ``most_depth`` the large messages within each
    other. ``feed`` raises ``ModelError`` as soon as a limit is passed or a length makes no sense; texts and small
    messages are not looked into, so a skeleton may still be no ONNX model.
    """

    def __init__(self, *, most_bytes: int = 2**31, most_kept: int = 2**25, most_depth: int = 48) -> None:
        self._most_bytes, self._most_kept, self._most_depth = most_bytes, most_kept, most_depth
        self._stack = [_Message("model", None)]
        self._buffer = bytearray()
        self._place = 0  # of the buffer's first byte in the file
        self._skip = 0
        self._kept = self._fields = 0
        self.size = 0
        """Bytes that were fed."""

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the file."""
        self.size += len(data)
        if self.size > self._most_bytes:
            raise ModelError(f"the ONNX model has more than {self._most_bytes} bytes; harvest it where it is")
        if self._skip:
            passed = min(self._skip, len(data))
            self._skip -= passed
            self._place += passed
            if passed == len(data):
                return
            data = memoryview(data)[passed:]
        self._buffer += data
        at, size = 0, len(self._buffer)
        while at < size:
            self._fields += 1
            if self._fields > _MOST_FIELDS:
                raise ModelError(f"the ONNX model has more than {_MOST_FIELDS} parts; harvest it where it is")
            after = self._field(at)
            if after is None:
                break
            at = after
            self._close(self._place + at)
        if at >= size:
            # Of what is skipped, some may not be there yet.
            self._place += at
            self._skip = at - size
            self._place -= self._skip
            self._buffer.clear()
        else:
            del self._buffer[:at]
            self._place += at

    def finish(self) -> bytes:
        """Return the skeleton; ``ModelError`` when the file ends inside a field."""
        if self._buffer or self._skip or len(self._stack) > 1:
            raise ModelError("the ONNX model ends in the middle of a field; was it cut off? send it again")
        return b"".join(self._stack[0].parts)

    def _field(self, at: int) -> int | None:
        """Take the field at ``at`` of the buffer; return where the next begins, None where bytes are missing."""
        message = self._stack[-1]
        tag = self._number(at)
        if tag is None:
            return None
        key, start = tag
        number, kind = key >> 3, key & 7
        if kind == 2:
            found = self._number(start)
            if found is None:
                return None
            head = bytes(self._buffer[at:start])
            length, start = found
            self._fits(message, self._place + start + length)
            if length > _SMALL:
                within = _WITHIN[message.kind].get(number)
                if within is not None:
                    self._open(within, self._place + start + length, head)
                    return start
                if message.kind == "tensor" and number in _VALUES and message.data_type in _FLOATS:
                    return start + length
            end = start + length
        elif kind == 0:
            found = self._number(start)
            if found is None:
                return None
            value, end = found
            if message.kind == "tensor" and number == _DATA_TYPE:
                message.data_type = value
        elif kind in (1, 5):
            end = start + (8 if kind == 1 else 4)
        else:
            raise ModelError(
                "the model cannot be read as ONNX (it has a field of no known kind); export it again"
            )
        self._fits(message, self._place + end)
        self._keep(end - at)
        if end > len(self._buffer):
            self._kept -= end - at
            return None
        message.parts.append(bytes(self._buffer[at:end]))
        return end

    def _number(self, at: int) -> tuple[int, int] | None:
        """Return the number at ``at`` and where it ends, None where bytes are missing."""
        buffer, number = self._buffer, 0
        for place in range(at, min(at + _MOST_VARINT, len(buffer))):
            byte = buffer[place]
            number |= (byte & 0x7F) << 7 * (place - at)
            if byte < 0x80:
                return number, place + 1
        if len(buffer) - at >= _MOST_VARINT:
            raise ModelError("the model cannot be read as ONNX (a number has no end); export it again")
        return None

    def _fits(self, message: _Message, end: int) -> None:
        if message.end is not None and end > message.end:
            raise ModelError(
                "the model cannot be read as ONNX (a field is longer than what holds it); export it again"
            )
        if end > self._most_bytes:
            raise ModelError(f"the ONNX model has more than {self._most_bytes} bytes; harvest it where it is")

    def _keep(self, count: int) -> None:
        self._kept += count
        if self._kept > self._most_kept:
            raise ModelError(
                f"the ONNX model has more than {self._most_kept} bytes beside its weights; harvest it where it is"
            )

    def _open(self, kind: str, end: int, tag: bytes) -> None:
        if len(self._stack) > self._most_depth:
            raise ModelError(f"the ONNX model nests its graphs deeper than {self._most_depth} messages")
        self._stack.append(_Message(kind, end, tag))

    def _close(self, place: int) -> None:
        """Put the messages that end at ``place`` into those that hold them."""
        while self._stack[-1].end == place:
            message = self._stack.pop()
            body = b"".join(message.parts)
            self._stack[-1].parts += (message.tag, varint(len(body)), body)


def skeleton_of(chunks: Iterable[bytes]) -> bytes:
    """Return the skeleton of a file that is given in pieces of any size."""
    found = Skeleton()
    for chunk in chunks:
        found.feed(chunk)
    return found.finish()
