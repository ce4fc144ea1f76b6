"""Short names for GPU kernels: what tells the kernels of one picture or listing apart."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["clean_kernel", "short_kernels"]

_HELD = re.compile(r"Kernel2?<\s*(\w+)")
_SPLIT = re.compile(r"_+")
_VERSION = re.compile(r"_+(?:5x|8x|9x)_cudnn$")


def clean_kernel(name: str) -> str:
    """Return a kernel's name without the return type, name spaces, template parameters and arguments.

    >>> clean_kernel("void cutlass::Kernel2<cutlass_80_tensorop_f16_s16816gemm_128x64>(Params)")
    'cutlass_80_tensorop_f16_s16816gemm_128x64'
    """
    name = name.strip()
    if held := _HELD.search(name):
        return held[1]
    name = name.removeprefix("void ")
    for opening in ("<", "("):
        # A name that begins with a bracket, such as "(anonymous namespace)::add", keeps what follows.
        head, _, rest = name.partition(opening)
        name = head or rest
    name = name.rsplit("::", 1)[-1] or name
    return _VERSION.sub("", name)


def short_kernels(names: Iterable[str], *, longest: int = 44) -> dict[str, str]:
    """Return a label for each of ``names``: at most ``longest`` characters, different ones for different names.

    Parts that all names of a family (the first part) share are left out; what is still too long loses its
    middle; what is still the same gets a number.
    """
    cleaned = {name: clean_kernel(name) for name in dict.fromkeys(names)}
    families: dict[str, list[list[str]]] = {}
    for text in set(cleaned.values()):
        parts = _SPLIT.split(text)
        families.setdefault(parts[0], []).append(parts)
    labels: dict[str, str] = {}
    for name, text in cleaned.items():
        family = families[_SPLIT.split(text)[0]]
        if len(family) > 1 and len(text) > longest:
            common = set.intersection(*map(set, family))
            first, *rest = _SPLIT.split(text)
            text = "_".join([first, *(part for part in rest if part not in common)])
        if len(text) > longest:
            half = (longest - 1) // 2
            text = f"{text[:half]}…{text[-half:]}"
        labels[name] = text
    return _numbered(labels)


def _numbered(labels: dict[str, str]) -> dict[str, str]:
    taken: dict[str, int] = {}
    result = {}
    for name, label in labels.items():
        taken[label] = taken.get(label, 0) + 1
        result[name] = label if taken[label] == 1 else f"{label} #{taken[label]}"
    return result
