"""How many processors a GPU has, by its name."""

from __future__ import annotations

import re

__all__ = ["processors_of"]

# Streaming multiprocessors, from the vendors' data sheets. Longer names before those that they begin with.
_UNITS = (
    (r"h100.*pcie", 114),
    (r"\b(h100|h200|h800)\b", 132),
    (r"\b(a100|a800)\b", 108),
    (r"\ba30\b", 56),
    (r"\ba10g?\b", 72),
    (r"\b(a40|rtx a6000)\b", 84),
    (r"\b(l40s?|rtx 6000 ada)\b", 142),
    (r"\bl4\b", 58),
    (r"\bv100\b|\btitan v\b", 80),
    (r"\bt4\b", 40),
    (r"\bp100\b", 56),
    (r"\bp4\b", 20),
    (r"\brtx 2080 ti\b", 68),
    (r"\brtx 3090\b", 82),
    (r"\brtx 4090\b", 128),
)


def processors_of(device: str | None) -> int | None:
    """Return the processors of the GPU of this name, None for a name that is not known.

    >>> processors_of("Tesla V100-PCIE-32GB"), processors_of("some accelerator")
    (80, None)
    """
    name = (device or "").lower()
    return next((units for pattern, units in _UNITS if re.search(pattern, name)), None)
