"""Finding TensorRT or TensorRT-RTX, which have one API, and what each can run on.

What differs, as far as this package uses it: only TensorRT-RTX builds without a device, for compute capabilities
that are named (``num_compute_capabilities``). TensorRT 10 has weakly typed networks unless told otherwise;
TensorRT 11 and TensorRT-RTX have strongly typed ones only, and no flags for single precisions.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from latency_model.errors import DependencyError, InputError

__all__ = [
    "FLAVOURS",
    "MessageLog",
    "flavour_of",
    "load_tensorrt",
    "message_log",
    "require_capability",
    "targets",
]

# The import name of each flavour, in the order of preference, and what pip calls it.
FLAVOURS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}

_ERRORS = ("ERROR", "INTERNAL_ERROR")
_WRAPPED = re.compile(r"Error Code \d+: [\w ]+ \((?P<reason>.*)\)$", re.DOTALL)
_ORIGIN = re.compile(r"\s*(?:In \S+(?: \w+\(\))? at /\S+|Ensure that the GPU driver.*)")


def load_tensorrt(flavour: str | None = None) -> Any:
    """Return the module ``tensorrt`` or, where that is not installed, ``tensorrt_rtx``.

    ``flavour`` asks for one of the two by its import name. Raises ``DependencyError`` with the command that
    installs it when it is absent or cannot load its libraries, ``InputError`` for another name.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise InputError(f"unknown TensorRT flavour {flavour!r}; known are {', '.join(FLAVOURS)}")
    wanted = [flavour] if flavour else list(FLAVOURS)
    broken = ""
    for name in wanted:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                broken = f"{name} lacks {error.name}"
        except (ImportError, OSError, RuntimeError) as error:
            # The package `tensorrt` of the public index is a stub that fetches its libraries elsewhere.
            broken = (
                f"{name} does not load: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            )
        else:
            if hasattr(module, "Builder"):
                return module
            broken = f"{name} is installed without its libraries"
    commands = " or ".join(f"pip install {FLAVOURS[name]}" for name in wanted)
    raise DependencyError(
        f"timing with TensorRT needs the package {' or '.join(wanted)}{f' ({broken})' if broken else ''}; "
        f"install it with: {commands}"
    )


def flavour_of(trt: Any) -> str:
    """Return ``tensorrt`` or ``tensorrt_rtx`` for the module."""
    return str(trt.__name__).partition(".")[0]


def targets(trt: Any) -> tuple[str, ...]:
    """Return the compute capabilities that can be named as a target, as ``8.9``; none for TensorRT proper."""
    names = getattr(getattr(trt, "ComputeCapability", None), "__members__", {})
    digits = sorted(int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name))
    return tuple(f"{number // 10}.{number % 10}" for number in digits)


def require_capability(trt: Any, capability: str) -> None:
    """Raise ``InputError`` when the runtime of this flavour refuses a device of this compute capability."""
    known = targets(trt)
    if flavour_of(trt) != "tensorrt_rtx" or not known or capability in known:
        return
    if int(capability.partition(".")[0]) > int(known[-1].partition(".")[0]):
        return  # it runs on later devices by compiling for them
    listed = f"{', '.join(known[:-1])} and {known[-1]}"
    raise InputError(
        f"TensorRT-RTX runs on compute capabilities {listed}; this device is {capability}: "
        "use --runtime onnxruntime, or install tensorrt"
    )


class MessageLog:
    """What TensorRT had to say: (severity, text) pairs in order, instead of prints."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str]] = []

    def add(self, severity: str, text: str) -> None:
        """Keep one message."""
        self.messages.append((severity, text))

    @property
    def reason(self) -> str:
        """The last error as a clause without source positions; empty when there was none."""
        errors = [text for severity, text in self.messages if severity in _ERRORS]
        if not errors:
            return ""
        wrapped = _WRAPPED.search(errors[-1].strip())
        text = wrapped["reason"] if wrapped else errors[-1]
        return " ".join(_ORIGIN.sub("", text).split()).rstrip(".")

    def last(self, start: str) -> str:
        """Return the last message that begins with ``start``; empty when there is none."""
        return next((text for _, text in reversed(self.messages) if text.startswith(start)), "")


def message_log(trt: Any) -> tuple[Any, MessageLog]:
    """Return a logger for ``trt`` and the log that it fills; TensorRT keeps no reference, so the caller must."""
    kept = MessageLog()

    class Collector(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            kept.add(str(severity.name), text)

    return Collector(), kept
