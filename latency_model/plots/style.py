"""What all pictures share: colours that colour-blind readers tell apart, kernels' colours, titles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from latency_model.environment import Environment
from latency_model.kernel_names import short_kernels
from latency_model.shapes import ConvShape

__all__ = [
    "COLOURS",
    "OTHER",
    "KernelColours",
    "aligned_to",
    "environment_title",
    "kernel_colours",
    "site_title",
]

# Okabe and Ito, "Color universal design" (2008), without black and with the yellow last: it is weak on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F3C8D", "#B8A800")
OTHER = "#9A9A9A"


@dataclass(frozen=True, slots=True)
class KernelColours:
    """A colour and a label for each kernel; the rare ones share a colour."""

    colours: dict[str, str]
    labels: dict[str, str]

    def legend(self) -> list[tuple[str, str]]:
        """Return (colour, label) pairs, the most frequent kernel first and the rare ones as one."""
        shown = [(self.colours[n], self.labels[n]) for n in self.colours if self.colours[n] != OTHER]
        rare = sum(colour == OTHER for colour in self.colours.values())
        return [*shown, (OTHER, f"{rare} other kernels")] if rare else shown


def kernel_colours(names: Iterable[str]) -> KernelColours:
    """Return colours for the kernels that ``names`` lists, once for each time that they are drawn."""
    found = [name for name, _ in Counter(name for name in names if name).most_common()]
    most = len(COLOURS)
    colours = {name: COLOURS[place] if place < most else OTHER for place, name in enumerate(found)}
    return KernelColours(colours, short_kernels(found))


def aligned_to(precision: str) -> int:
    """Return the multiple of channels that tensor cores want: 16 bytes of activations."""
    return {"fp16": 8, "bf16": 8, "int8": 16}.get(precision, 4)


def _pair(pair: Sequence[int]) -> str:
    return f"{pair[0]}x{pair[1]}"


def site_title(site: ConvShape) -> str:
    """Return the site in words: everything but its channel counts."""
    parts = [
        f"{_pair(site.kernel)} {'depthwise ' if site.depthwise else ''}convolution",
        f"stride {site.stride[0] if site.stride[0] == site.stride[1] else _pair(site.stride)}",
        f"input {site.height}x{site.width}",
        f"batch {site.batch}",
        site.pattern,
        site.precision,
        site.layout,
    ]
    if site.groups > 1 and not site.depthwise:
        parts.insert(2, f"{site.groups} groups")
    if site.dilation != (1, 1):
        parts.insert(2, f"dilation {_pair(site.dilation)}")
    return ", ".join(parts)


def environment_title(environments: Sequence[Environment]) -> list[str]:
    """Return a line per environment: device, runtime and version; lettered where there are several."""
    lines = []
    for letter, environment in zip("ABCDEFGH", environments, strict=False):
        cuda = f", CUDA {environment.cuda}" if environment.cuda else ""
        text = f"{environment.device} · {environment.runtime} {environment.runtime_version}{cuda}"
        lines.append(f"{letter}: {text}" if len(environments) > 1 else text)
    return lines
