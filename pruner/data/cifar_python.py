"""CIFAR-10 and CIFAR-100 in their "python version", the layout that torchvision keeps on disk.

Those files are pickles, and a pickle is a program. They are read by an interpreter that knows only four
names, each replaced by a small class of ours that can hold bytes and a shape: no code of numpy, or of anybody
else, can be reached from the file, so a hostile one can at worst be refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latency_model.errors import DataError
from pruner.data.split import MemorySource

__all__ = ["LAYOUTS", "cifar_classes", "cifar_source"]

# folder -> (training files, test files, labels key, file with the names, names key)
LAYOUTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str, str, str]] = {
    "cifar-10-batches-py": (
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        ("test_batch",),
        "labels",
        "batches.meta",
        "label_names",
    ),
    "cifar-100-python": (("train",), ("test",), "fine_labels", "meta", "fine_label_names"),
}
_SHAPE = (3, 32, 32)


class _RefusedError(Exception):
    pass


def _names() -> dict[tuple[str, str], Callable[..., Any]]:
    # Made anew for each file: what a file does to these objects ends with it.
    class Dtype:
        def __init__(self, code: str | bytes, *_: object) -> None:
            if code not in ("u1", b"u1"):
                raise _RefusedError(f"holds an array of {code!r}, not of bytes")

        def __setstate__(self, _: object) -> None:
            pass

    class Array:
        def __setstate__(self, state: tuple[Any, ...]) -> None:
            _, self.shape, _, self.fortran, self.data = state

    def encode(text: str, _: str) -> bytes:
        return text.encode("latin1")

    def reconstruct(*_: object) -> Array:
        return Array()

    names: dict[tuple[str, str], Callable[..., Any]] = {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): Dtype,
        ("_codecs", "encode"): encode,
    }
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        names[module, "_reconstruct"] = reconstruct
    return names


def _read(path: Path) -> dict[str, Any]:
    names = _names()

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in names:
                raise _RefusedError(f"asks for {module}.{name}, which no CIFAR file needs")
            return names[module, name]

    try:
        with path.open("rb") as stream:
            content = Restricted(stream, encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; unpack the CIFAR archive again") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path} is not a CIFAR file ({error}); unpack the archive again") from error


def cifar_source(folder: Path, part: str) -> MemorySource:
    """Return the ``train`` or ``test`` images below ``folder`` (named as in ``LAYOUTS``)."""
    train, test, key, _, _ = LAYOUTS[folder.name]
    images, labels = [], []
    for name in train if part == "train" else test:
        content = _read(folder / name)
        try:
            data = content["data"]
            pixels = np.frombuffer(data.data, np.uint8).reshape(
                data.shape, order="F" if data.fortran else "C"
            )
            images.append(torch.from_numpy(pixels.reshape(-1, *_SHAPE).copy()))
            labels.append(torch.tensor(content[key], dtype=torch.int64))
        except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{folder / name} has no CIFAR images and {key} ({error}); unpack the archive again"
            ) from error
        if len(images[-1]) != len(labels[-1]):
            raise DataError(
                f"{folder / name} has {len(images[-1])} images but {len(labels[-1])} labels; "
                "unpack the archive again"
            )
    return MemorySource(torch.cat(images), torch.cat(labels))


def cifar_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names from the meta file."""
    *_, meta, key = LAYOUTS[folder.name]
    names = _read(folder / meta).get(key)
    if not isinstance(names, list) or not names:
        raise DataError(f"{folder / meta} lists no {key}; unpack the archive again")
    return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
