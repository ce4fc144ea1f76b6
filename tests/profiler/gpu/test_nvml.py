import os
import sys
from types import SimpleNamespace

import pytest

from latency_model.errors import DependencyError
from profiler.gpu.nvml import Nvml
from profiler.gpu.program import GpuState


class NVMLError(Exception):
    pass


def unsupported(*_):
    raise NVMLError


def driver(**changes):
    """A pynvml for one device that is busy and capped."""
    calls = []
    functions = {
        "NVMLError": NVMLError,
        "NVML_CLOCK_SM": 1,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: calls.append("shutdown"),
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlDeviceGetHandleByUUID": lambda uuid: calls.append(uuid) or "handle",
        "nvmlDeviceGetHandleByPciBusId": lambda bus: calls.append(bus) or "handle",
        "nvmlDeviceGetName": lambda handle: "NVIDIA H100",
        "nvmlDeviceGetClockInfo": lambda handle, kind: 1980,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 51,
        "nvmlDeviceGetPowerUsage": lambda handle: 412_300,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: 0x1 | 0x4 | 0x40,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [SimpleNamespace(pid=os.getpid())],
        "nvmlDeviceGetGraphicsRunningProcesses": lambda handle: [],
    }
    functions.update(changes)
    return SimpleNamespace(**{k: v for k, v in functions.items() if v is not None}), calls


@pytest.fixture
def opened(monkeypatch):
    def open_with(uuid="1-2", pci_bus_id="", own=(), **changes):
        module, calls = driver(**changes)
        monkeypatch.setitem(sys.modules, "pynvml", module)
        return Nvml(uuid=uuid, pci_bus_id=pci_bus_id, own=own), calls

    return open_with


def test_the_state_of_a_busy_device(opened):
    nvml, calls = opened()
    assert nvml.state() == GpuState(1980.0, 51.0, 412.3, ("sw-power-cap", "hw-thermal"), ())
    assert (nvml.device_name, nvml.driver_version) == ("NVIDIA H100", "580.1")
    assert calls == ["GPU-1-2"]


def test_an_older_binding_has_the_older_name(opened):
    nvml, _ = opened(
        nvmlDeviceGetCurrentClocksEventReasons=None,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 0x8,
    )
    assert nvml.state().throttle == ("hw-slowdown",)


def test_an_idle_device_is_not_held_back_and_an_unknown_reason_is_named(opened):
    assert opened(nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x1)[0].state().throttle == ()
    state = opened(nvmlDeviceGetCurrentClocksEventReasons=lambda handle: 0x1000)[0].state()
    assert state.throttle == ("unknown-0x1000",)


def test_what_is_not_supported_is_none(opened):
    nvml, _ = opened(
        nvmlDeviceGetPowerUsage=unsupported,
        nvmlDeviceGetClockInfo=unsupported,
        nvmlDeviceGetComputeRunningProcesses=unsupported,
        nvmlDeviceGetCurrentClocksEventReasons=unsupported,
        nvmlDeviceGetName=unsupported,
    )
    assert nvml.state() == GpuState(temperature_c=51.0)
    assert nvml.device_name == ""


def test_without_a_driver_nothing_is_known(opened):
    nvml, calls = opened(nvmlInit=unsupported, nvmlSystemGetDriverVersion=unsupported)
    assert nvml.state() == GpuState()
    assert nvml.driver_version == ""
    nvml.close()
    assert calls == []


def test_the_bus_is_asked_where_the_uuid_is_not_known(opened):
    _, calls = opened(pci_bus_id="00000000:1b:00.0", nvmlDeviceGetHandleByUUID=unsupported)
    assert calls == ["00000000:1b:00.0"]


def test_a_device_that_is_not_named_is_not_guessed(opened):
    nvml, calls = opened(uuid="")
    assert nvml.state() == GpuState()
    assert calls == []


def pids(*numbers):
    return lambda handle: [SimpleNamespace(pid=pid) for pid in numbers]


def test_other_processes_are_seen(opened):
    me = os.getpid()
    assert opened(nvmlDeviceGetComputeRunningProcesses=pids(me, 7))[0].state().others == (7,)
    assert opened(own=(7,), nvmlDeviceGetComputeRunningProcesses=pids(me, 7))[0].state().others == ()
    nvml, _ = opened(
        nvmlDeviceGetComputeRunningProcesses=pids(me), nvmlDeviceGetGraphicsRunningProcesses=pids(9)
    )
    assert nvml.state().others == (9,)


def test_in_a_container_one_of_the_hosts_ids_is_ours(opened):
    stranger = os.getpid() + 100_000
    assert opened(nvmlDeviceGetComputeRunningProcesses=pids(stranger))[0].state().others == ()
    nvml, _ = opened(nvmlDeviceGetComputeRunningProcesses=pids(stranger, stranger + 1))
    assert nvml.state().others == (stranger,)


def test_closing_twice_does_no_harm(opened):
    nvml, calls = opened()
    nvml.close()
    nvml.close()
    assert calls[-1] == "shutdown"
    assert calls.count("shutdown") == 1
    assert nvml.state() == GpuState()


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(DependencyError, match="pip install nvidia-ml-py"):
        Nvml(uuid="1")
