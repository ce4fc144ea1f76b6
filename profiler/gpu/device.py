"""Which CUDA device is meant, whether it is there, and what it calls itself."""

from __future__ import annotations

import re

from latency_model.errors import InputError

__all__ = ["cuda_index", "cuda_versions", "driver_version", "require_cuda"]

_DEVICE = re.compile(r"cuda(?::(\d+))?")


def cuda_index(device: str) -> int:
    """Return the index in ``cuda`` (0) or ``cuda:N``; ``InputError`` for anything else."""
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise InputError(f"not a device: {device!r}; write cpu, cuda or, for the second GPU, cuda:1")
    return int(match.group(1) or 0)


def require_cuda(device: str) -> int:
    """Return the index of ``device``; ``InputError`` when torch cannot use it."""
    import torch

    index = cuda_index(device)
    if torch.version.cuda is None:
        raise InputError(
            f"this PyTorch {torch.__version__} was built without CUDA, so nothing can be timed on {device}; "
            "install a CUDA build of torch, or use --device cpu"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise InputError(
            f"this machine has no CUDA device that can be used, so nothing can be timed on {device}; "
            "look at nvidia-smi, or use --device cpu"
        )
    if index >= count:
        found = "only cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise InputError(f"there is no device {device}: this machine has {found}")
    return index


def cuda_versions(index: int) -> dict[str, str]:
    """Return device, driver, cuda and cudnn of a device that is there, as an ``Environment`` has them."""
    import torch

    cudnn = torch.backends.cudnn.version() or 0
    # cuDNN 9.19.0 is 91900; before version 9 it was 8902 for 8.9.2.
    unit = 10000 if cudnn >= 90000 else 1000
    text = f"{cudnn // unit}.{cudnn % unit // 100}.{cudnn % 100}" if cudnn else ""
    return {
        "device": torch.cuda.get_device_name(index),
        "driver": driver_version(),
        "cuda": torch.version.cuda or "",
        "cudnn": text,
    }


def driver_version() -> str:
    """Return the version of the NVIDIA driver, "" where the management library is not there to ask."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no package, or no library: the rows say so with an empty field
        return ""
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    finally:
        pynvml.nvmlShutdown()
