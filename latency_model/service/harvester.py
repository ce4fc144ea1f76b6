"""The process that reads other people's ONNX models: ``python -m latency_model.service.harvester``.

It reads requests from its standard input and writes answers to its standard output, one after the other. A request
is two lengths of 4 bytes, big-endian, a JSON of what to do and the model; an answer is one length and a JSON. Its
memory is limited; who uses it ends it when it takes too long. What crashes a parser here costs one request.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from typing import Any, BinaryIO

__all__ = ["harvested", "main"]

_LENGTHS = struct.Struct(">II")
_LENGTH = struct.Struct(">I")


def harvested(
    model: bytes, *, batch: int | None, precision: str | None, layout: str, depth: int
) -> dict[str, Any]:
    """Return the JSON of what ``gharial estimate`` harvests from an ONNX model's bytes.

    Raises ``ModelError`` for what the guard refuses and for what cannot be harvested.
    """
    import onnx

    from latency_model.errors import ModelError
    from latency_model.harvest import harvest_onnx
    from latency_model.harvest.onnx_file import image_sizes, open_onnx
    from latency_model.network_json import network_from_json, network_to_json
    from latency_model.service.api.onnx_guard import check_encoding, check_tensors

    check_encoding(model, onnx.ModelProto.DESCRIPTOR, most_depth=depth)
    opened = open_onnx(model)
    check_tensors(opened)
    sizes = image_sizes(opened)
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        raise ModelError(
            f"the ONNX model must take one image batch of fixed channels, height and width, not {sizes}; "
            "export it with only the batch dynamic"
        )
    found = harvest_onnx(model, batch=batch or sizes[0] or 1, precision=precision, layout=layout)
    data = network_to_json(found)
    network_from_json(data)  # refuses sizes that are no network's
    return data


def _answer(request: dict[str, Any], model: bytes) -> dict[str, Any]:
    from latency_model.errors import GharialError

    try:
        return {"network": harvested(model, **request)}
    except GharialError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "reading the ONNX model takes more memory than the server gives to one model"}
    except RecursionError:
        return {"error": "the ONNX model nests too deep to be read"}
    except (
        Exception
    ) as error:  # a parser's own; the model is somebody else's, so this is no failure of the server
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return {
            "error": f"the ONNX model cannot be harvested ({type(error).__name__}: {reason}); export it again"
        }


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    while len(head := source.read(_LENGTHS.size)) == _LENGTHS.size:
        sizes = _LENGTHS.unpack(head)
        request, model = (source.read(size) for size in sizes)
        answer = json.dumps(_answer(json.loads(request), model)).encode()
        sink.write(_LENGTH.pack(len(answer)) + answer)
        sink.flush()


def main() -> None:
    """Answer requests until the standard input ends."""
    limit = int(os.environ.get("GHARIAL_HARVEST_MEMORY_BYTES", "0"))
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # A parser that crashes must not leave hundreds of megabytes of core on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import onnx  # noqa: F401 - the slow part of the first request

    import latency_model.harvest.from_onnx  # noqa: F401

    # Libraries print to the standard output; the answers go where nobody else writes.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, sink)


if __name__ == "__main__":
    main()
