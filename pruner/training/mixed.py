"""Mixed precision: which 16-bit type, and the loss scale that fp16 needs.

Micikevicius et al., "Mixed Precision Training", ICLR 2018 (arXiv 1710.03740).
"""

from __future__ import annotations

import torch

from latency_model.errors import InputError

__all__ = ["HALF_TYPES", "half_type"]

HALF_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def half_type(amp: bool | str) -> torch.dtype | None:
    """Return the 16-bit type of ``amp``: a name of ``HALF_TYPES``, True for bfloat16, None for False or "off"."""
    if amp is False or amp == "off":
        return None
    name = "bf16" if amp is True else amp
    if name not in HALF_TYPES:
        raise InputError(f"amp must be {' or '.join(HALF_TYPES)}, not {amp!r}")
    return HALF_TYPES[name]
