"""Seeds for independent random streams."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator", "mix_seed"]


def mix_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on every part; streams of different parts are unrelated.

    Sums such as ``seed + epoch`` would give run 0, epoch 1 and run 1, epoch 0 the same noise.
    """
    digest = hashlib.sha256(":".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded by ``mix_seed(*parts)``."""
    return torch.Generator().manual_seed(mix_seed(*parts))
