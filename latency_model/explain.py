"""Where an estimate comes from: for each part its row, the rows around it, its kernels and where they switch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latency_model.errors import InputError
from latency_model.estimate import Estimate, SiteCost
from latency_model.estimate import explain as summary
from latency_model.kernel_names import clean_kernel
from latency_model.measurement import Measurement
from latency_model.shapes import ConvShape

if TYPE_CHECKING:
    from latency_model.model import LatencyModel

__all__ = ["Explanation", "PartExplanation", "Step", "explanation"]

_SHOWN = 5
# A change of latency from one measured count to the next that is worth a word.
_STEP = 0.15


@dataclass(frozen=True, slots=True)
class Step:
    """Two neighbouring measured output counts between which the latency or the kernel changes."""

    counts: tuple[int, int]
    latency_us: tuple[float, float]
    kernels: tuple[str, str]

    @property
    def switched(self) -> bool:
        """Whether another kernel runs."""
        return self.kernels[0] != self.kernels[1]


@dataclass(frozen=True)
class PartExplanation:
    """One part of an estimate: what it costs, its share, and what that rests on.

    ``row`` is the measurement of just this shape, if there is one. ``steps`` are the changes along the output
    channels at its input channels.
    """

    part: SiteCost
    share: float
    row: Measurement | None
    steps: tuple[Step, ...]

    @property
    def kernel(self) -> str:
        """The kernel that takes most of the row's time, "" if none is known."""
        return _kernel(self.row)


@dataclass(frozen=True)
class Explanation:
    """An estimate and the explanation of each of its parts, the dearest first."""

    estimate: Estimate
    parts: tuple[PartExplanation, ...]
    whole: bool = True

    @property
    def text(self) -> str:
        """The explanation for people."""
        lines = [summary(self.estimate), ""] if self.whole else []
        shown = self.parts if not self.whole else self.parts[:_SHOWN]
        for found in shown:
            lines += _lines(found)
        if self.whole and len(self.parts) > len(shown):
            lines.append("one of the others in full: --site NAME; all of them: --json")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**self.estimate.to_json(), "parts": [_json(found) for found in self.parts]}


def explanation(model: LatencyModel, estimate: Estimate, *, site: str | None = None) -> Explanation:
    """Return the explanation of ``estimate``, which ``model`` made; with ``site`` that of one part only.

    Raises ``InputError`` when no part has that name.
    """
    parts: Sequence[SiteCost] = (*estimate.sites, *estimate.ops)
    if site is not None:
        parts = [part for part in parts if part.name == site]
        if not parts:
            names = ", ".join(part.name for part in estimate.sites[:_SHOWN])
            raise InputError(f"the network has no part {site!r}; its convolutions are {names} and so on")
    ordered = sorted(parts, key=lambda part: part.latency_us, reverse=True)
    found = tuple(_explained(model, part, estimate.raw_sum_us) for part in ordered)
    return Explanation(estimate, found, whole=site is None)


def _explained(model: LatencyModel, part: SiteCost, total_us: float) -> PartExplanation:
    shape = part.shape
    row = None if shape is None else model.table.measured(shape)
    steps = _steps(model, shape) if isinstance(shape, ConvShape) else ()
    return PartExplanation(part, part.latency_us / total_us, row, steps)


def _steps(model: LatencyModel, shape: ConvShape) -> tuple[Step, ...]:
    """Return the steps of the measured line through ``shape`` along its output channels."""
    grid = model.convs.grid(shape)
    if grid is None:
        return ()
    measured = grid.measured_only()
    here = measured.inputs == shape.in_channels
    if measured.linked:
        here = np.ones(len(measured.inputs), dtype=bool)
    order = np.flatnonzero(here)[np.argsort(measured.outputs[here], kind="stable")]
    found = []
    for one, two in zip(order[:-1].tolist(), order[1:].tolist(), strict=True):
        before, after = float(measured.latency_us[one]), float(measured.latency_us[two])
        names = tuple(
            _kernel(
                model.table.measured(
                    grid.site.with_channels(int(measured.inputs[at]), int(measured.outputs[at]))
                )
            )
            for at in (one, two)
        )
        if names[0] != names[1] or abs(after / before - 1.0) > _STEP:
            counts = int(measured.outputs[one]), int(measured.outputs[two])
            found.append(Step(counts, (before, after), (names[0], names[1])))
    return tuple(found)


def _kernel(row: Measurement | None) -> str:
    if row is None or not row.kernels:
        return ""
    return clean_kernel(max(row.kernels, key=lambda kernel: kernel[1])[0])


def _lines(found: PartExplanation) -> list[str]:
    part, row = found.part, found.row
    lines = [
        f"{part.name}: {part.latency_us:.2f} us, {found.share:.1%} of the sum, corrected {part.corrected_us:.2f} us",
        f"  {part.what}",
    ]
    if row is not None:
        lines.append(
            f"  measured: {row.latency_us:.2f} us, between {row.low_us:.2f} and {row.high_us:.2f} us at 95 %, "
            f"{row.samples} samples, {row.method}" + (f", {', '.join(row.flags)}" if row.flags else "")
        )
        if row.note:
            lines.append(f"  {row.note}")
        if found.kernel:
            lines.append(f"  kernel: {found.kernel}")
    else:
        lines.append(f"  {_unmeasured(part)}")
    shape = part.shape
    own = shape.out_channels if isinstance(shape, ConvShape) else 0
    for step in _nearest(found.steps, own):
        change = step.latency_us[1] / step.latency_us[0] - 1.0
        switch = f", {step.kernels[0]} -> {step.kernels[1]}" if step.switched and step.kernels[0] else ""
        lines.append(
            f"  from {step.counts[0]} to {step.counts[1]} output channels: {step.latency_us[0]:.2f} -> "
            f"{step.latency_us[1]:.2f} us ({change:+.0%}){switch}"
        )
    return lines


def _unmeasured(part: SiteCost) -> str:
    if part.shape is None:
        how = {"fitted": "fitted on such kernels", "borrowed": "as of similar kernels"}.get(
            part.source, "assumed"
        )
        return f"priced by the bytes that it moves, {how}"
    return f"{part.source}: this very shape was not measured"


def _nearest(steps: Sequence[Step], count: int) -> list[Step]:
    """Return the three steps nearest to ``count``, ascending."""
    near = sorted(steps, key=lambda step: abs(step.counts[1] - count))[:3]
    return sorted(near, key=lambda step: step.counts)


def _json(found: PartExplanation) -> dict[str, Any]:
    row = found.row
    return {
        "name": found.part.name,
        "shape": found.part.what,
        "latency_us": found.part.latency_us,
        "corrected_us": found.part.corrected_us,
        "share": found.share,
        "source": found.part.source,
        "row": None
        if row is None
        else {
            "latency_us": row.latency_us,
            "low_us": row.low_us,
            "high_us": row.high_us,
            "samples": row.samples,
            "method": row.method,
            "flags": list(row.flags),
            "kernel": found.kernel,
            "note": row.note,
        },
        "steps": [
            {
                "counts": list(step.counts),
                "latency_us": list(step.latency_us),
                "kernels": list(step.kernels),
                "switched": step.switched,
            }
            for step in found.steps
        ],
    }
