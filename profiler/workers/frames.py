"""Messages on a pipe: a JSON document and binary attachments, each preceded by its length."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import IO, Any

__all__ = ["read_frame", "write_frame"]

_LENGTH = struct.Struct("<Q")


def write_frame(stream: IO[bytes], data: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one message and flush; ``ValueError`` when ``data`` holds what JSON cannot (NaN)."""
    text = json.dumps(
        {"data": data, "blobs": [len(blob) for blob in blobs]}, separators=(",", ":"), allow_nan=False
    ).encode()
    stream.write(_LENGTH.pack(len(text)) + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], list[bytes]] | None:
    """Return the next message and its attachments, None when the other side is gone, even in mid-message."""
    head = _exactly(stream, _LENGTH.size)
    text = None if head is None else _exactly(stream, _LENGTH.unpack(head)[0])
    if text is None:
        return None
    message = json.loads(text)
    blobs = []
    for size in message["blobs"]:
        blob = _exactly(stream, size)
        if blob is None:
            return None
        blobs.append(blob)
    return message["data"], blobs


def _exactly(stream: IO[bytes], size: int) -> bytes | None:
    data = stream.read(size)
    return data if len(data) == size else None
