"""What a back end is: it describes itself, times one convolution, and times whole networks."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeAlias, runtime_checkable

from latency_model.environment import Environment
from latency_model.errors import MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import Config

__all__ = ["Backend", "OneByOne", "Outcome", "cpu_isa", "cpu_name"]

# A configuration, and its row or why there is none.
Outcome: TypeAlias = tuple[Config, Measurement | MeasurementError]


@runtime_checkable
class Backend(Protocol):
    """A runtime on a device. A context manager: leaving it frees what it holds.

    A back end class is made by ``open_backend`` with the keyword arguments ``device`` and ``threads``, and
    its own options. ``precisions`` are those that it can time, ``at_once`` is how many configurations it
    likes to be given together: a GPU back end packs that many into one program.
    """

    precisions: tuple[str, ...]
    at_once: int

    @property
    def environment(self) -> Environment:
        """What every measurement of this back end belongs to; the same at every call."""
        ...

    def measure(self, config: Config, *, run_id: str) -> Measurement:
        """Return the latency of one configuration; ``MeasurementError`` when it cannot be timed."""
        ...

    def measure_many(self, configs: Sequence[Config], *, run_id: str) -> Iterator[Outcome]:
        """Yield the outcome of each of ``configs`` as soon as it is known, in any order, each once.

        One that cannot be timed yields its ``MeasurementError``, and the others go on.
        """
        ...

    def time_networks(
        self, models: Sequence[bytes], *, seed: int = 0, rounds: int = 20, run_id: str = ""
    ) -> list[Measurement]:
        """Time whole networks given as ONNX, with random input from ``seed``, in the order of ``models``.

        The networks take turns, ``rounds`` times, so that drift of the machine hits all of them alike.
        Raises ``MeasurementError`` when the back end cannot run one of them.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OneByOne:
    """A back end that measures one configuration after the other; a context manager that calls ``close``."""

    at_once = 1
    times_ops = False  # whether it can time operators that are no convolutions
    passes = 1  # how often a run measures each configuration, at different times
    reorders = False  # whether its runtime changes layouts as ONNX Runtime does on a CPU

    def measure(self, config: Config, *, run_id: str) -> Measurement:
        """Return the latency of one configuration; ``MeasurementError`` when it cannot be timed."""
        raise NotImplementedError

    def measure_many(self, configs: Sequence[Config], *, run_id: str) -> Iterator[Outcome]:
        """Yield the outcome of each of ``configs``, in order."""
        for config in configs:
            try:
                yield config, self.measure(config, run_id=run_id)
            except MeasurementError as error:
                yield config, error

    def close(self) -> None:
        """Free what the back end holds; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _cpuinfo(text: str) -> tuple[dict[str, str], int]:
    """Return the fields of the first processor in the text of /proc/cpuinfo, and the number of processors."""
    first: dict[str, str] = {}
    count = 0
    for line in text.splitlines():
        name, _, value = line.partition(":")
        count += name.strip() == "processor"
        if count == 1:
            first.setdefault(name.strip(), value.strip())
    return first, count


def _read_cpuinfo() -> tuple[dict[str, str], int]:
    path = Path("/proc/cpuinfo")
    return _cpuinfo(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else ({}, 0)


def cpu_name() -> str:
    """Return a name of this CPU that tells micro-architectures apart: model name, family, model, cores.

    Virtual machines shorten the model name ("AMD EPYC"), so family and model are part of it.
    """
    fields, count = _read_cpuinfo()
    name = fields.get("model name") or platform.processor() or platform.machine()
    numbers = [
        f"{key.removeprefix('cpu ')} {fields[key]}" for key in ("cpu family", "model") if key in fields
    ]
    return " ".join([name, f"({', '.join([*numbers, f'{count or 1} cores'])})"])


def cpu_isa() -> str:
    """Return the widest vector instructions of this CPU that change which convolution code runs."""
    flags = set(_read_cpuinfo()[0].get("flags", "").split())
    for flag in ("avx512f", "avx2", "avx", "sse4_2"):
        if flag in flags:
            return flag
    return platform.machine()
