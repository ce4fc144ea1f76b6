"""What the NVIDIA driver says of a device, through NVML: clocks, heat, power, throttling, other programs.

Everything here only reads. A query that the driver or the device does not support gives None.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

from latency_model.errors import DependencyError
from profiler.gpu.program import GpuState

__all__ = ["Nvml"]

# Bits of nvmlClocksEventReasons. An idle device (bit 0) is not held back.
_REASONS = {
    1 << 1: "applications-clocks",
    1 << 2: "sw-power-cap",
    1 << 3: "hw-slowdown",
    1 << 4: "sync-boost",
    1 << 5: "sw-thermal",
    1 << 6: "hw-thermal",
    1 << 7: "hw-power-brake",
    1 << 8: "display-clocks",
}
_IDLE = 1


class Nvml:
    """One device of the driver, found by its UUID or PCI bus id.

    Those are what a process's own numbering of devices (``CUDA_VISIBLE_DEVICES``) does not change: take
    them from ``torch.cuda.get_device_properties``. Raises ``DependencyError`` when nvidia-ml-py is not
    installed. Without a driver, or when the device is not found, every answer is None.
    """

    def __init__(self, *, uuid: str = "", pci_bus_id: str = "", own: Sequence[int] = ()) -> None:
        try:
            self._nvml: Any = importlib.import_module("pynvml")
        except ModuleNotFoundError as error:
            raise DependencyError(
                "the state of a GPU is read with the package nvidia-ml-py; install it with: "
                "pip install nvidia-ml-py"
            ) from error
        self._own = {os.getpid(), *own}
        self._handle: Any = None
        self._open = False
        if self._ask("nvmlInit", convert=lambda _: True):
            self._open = True
            self._handle = self._find(uuid, pci_bus_id)

    def _find(self, uuid: str, pci_bus_id: str) -> Any:
        handle = None
        if uuid:
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            handle = self._ask("nvmlDeviceGetHandleByUUID", name)
        if handle is None and pci_bus_id:
            handle = self._ask("nvmlDeviceGetHandleByPciBusId", pci_bus_id)
        return handle

    def _ask(self, name: str, *arguments: Any, convert: Callable[[Any], Any] | None = None) -> Any:
        """Return what the function ``name`` of NVML says, or None when it says that it cannot."""
        function = getattr(self._nvml, name, None)
        if function is None:
            return None
        try:
            value = function(*arguments)
        except self._nvml.NVMLError:
            return None
        return convert(value) if convert is not None else value

    def _ask_device(self, name: str, *arguments: Any, convert: Callable[[Any], Any] | None = None) -> Any:
        return None if self._handle is None else self._ask(name, self._handle, *arguments, convert=convert)

    @property
    def driver_version(self) -> str:
        """The version of the driver; empty when it is not known."""
        return self._ask("nvmlSystemGetDriverVersion", convert=_text) or ""

    @property
    def device_name(self) -> str:
        """The name of the device; empty when it is not known."""
        return self._ask_device("nvmlDeviceGetName", convert=_text) or ""

    def state(self) -> GpuState:
        """Return what the driver says now."""
        constants = self._nvml
        mask = None
        for name in ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"):
            if mask is None:
                mask = self._ask_device(name, convert=int)
        return GpuState(
            sm_clock_mhz=self._ask_device("nvmlDeviceGetClockInfo", constants.NVML_CLOCK_SM, convert=float),
            temperature_c=self._temperature(),
            power_w=self._ask_device("nvmlDeviceGetPowerUsage", convert=lambda milliwatts: milliwatts / 1e3),
            throttle=_names(mask or 0),
            others=self._others(),
        )

    def _temperature(self) -> float | None:
        sensor = self._nvml.NVML_TEMPERATURE_GPU
        return self._ask_device("nvmlDeviceGetTemperature", sensor, convert=float)

    def _others(self) -> tuple[int, ...]:
        """Return the ids of other processes on the device.

        Inside a container the driver shows the host's ids, so this process is not found by its own. It runs
        on the device, so one of those listed is it: the newest is taken for it.
        """
        seen: set[int] = set()
        for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            seen |= {int(process.pid) for process in self._ask_device(name) or ()}
        return tuple(sorted(seen - self._own)) if seen & self._own else tuple(sorted(seen)[:-1])

    def close(self) -> None:
        """Let go of the driver; may be called twice."""
        if self._open:
            self._ask("nvmlShutdown")
            self._open, self._handle = False, None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _names(mask: int) -> tuple[str, ...]:
    known = tuple(name for bit, name in _REASONS.items() if mask & bit)
    rest = mask & ~(_IDLE | sum(_REASONS))
    return (*known, f"unknown-{rest:#x}") if rest else known
