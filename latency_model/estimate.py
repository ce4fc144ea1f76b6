"""What the model says of one network, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latency_model.correction import Correction
from latency_model.corrections import OperatorCorrection, TermsCorrection
from latency_model.networks.correction import NetworkCorrection
from latency_model.ops import Config

__all__ = ["Estimate", "SiteCost", "explain"]

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SiteCost:
    """One operator of an estimate: ``latency_us`` is its price, ``corrected_us`` its share of the whole network.

    ``source`` says where it is from: ``measured``, ``padded``, ``reconstructed``, ``regressed``, ``extrapolated``
    or ``interpolated``; of a kernel that is priced by its bytes ``fitted``, ``borrowed`` or ``assumed``. Such a
    kernel has no shape, ``text`` describes it.
    """

    name: str
    shape: Config | None
    latency_us: float
    source: str
    text: str = ""
    corrected_us: float = 0.0

    @property
    def what(self) -> str:
        """The shape as text, or the description."""
        return self.text if self.shape is None else self.shape.text


@dataclass(frozen=True)
class Estimate:
    """A network's latency with its interval at ``confidence``, and what it is made of.

    ``sites`` are its convolutions, ``ops`` the other operators that the table prices. ``raw_sum_us`` is the sum
    of both before the correction. ``unpriced`` counts operators that have no price of their own. ``flags`` says
    what a reader must know. ``kernels`` is how many the runtime launches, 0 where they are not counted. ``family`` is
    the one whose measured networks the interval is of, None for an unseen one.
    """

    latency_us: float
    low_us: float
    high_us: float
    raw_sum_us: float
    confidence: float
    sites: tuple[SiteCost, ...]
    unpriced: Mapping[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    correction: OperatorCorrection = field(default_factory=Correction)
    ops: tuple[SiteCost, ...] = ()
    kernels: int = 0
    family: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "latency_us": self.latency_us,
            "low_us": self.low_us,
            "high_us": self.high_us,
            "raw_sum_us": self.raw_sum_us,
            "confidence": self.confidence,
            "family": self.family,
            "flags": list(self.flags),
            "unpriced": dict(self.unpriced),
            "correction": self.correction.to_json(),
            "sites": [_json(site) for site in self.sites],
            "ops": [_json(op) for op in self.ops],
        }


def _json(site: SiteCost) -> dict[str, Any]:
    return {
        "name": site.name,
        "shape": site.what,
        "latency_us": site.latency_us,
        "corrected_us": site.corrected_us,
        "source": site.source,
    }


def explain(estimate: Estimate) -> str:
    """Return a text for people: the number, its parts, its correction, and what it does not know."""
    e = estimate
    lines = [
        f"{e.latency_us:.1f} us, between {e.low_us:.1f} and {e.high_us:.1f} us at {e.confidence:.0%}"
        + (f", as networks of the family {e.family}" if e.family else ""),
        f"{len(e.sites)} convolutions"
        + (f" and {len(e.ops)} other operators" if e.ops else "")
        + f" sum to {e.raw_sum_us:.1f} us",
    ]
    dear = sorted((*e.sites, *e.ops), key=lambda site: site.latency_us, reverse=True)[:_SHOWN]
    for site in dear:
        share = site.latency_us / e.raw_sum_us
        lines.append(f"  {site.name}: {site.latency_us:.1f} us ({share:.0%}), {site.source}, {site.what}")
    if (more := len(e.sites) + len(e.ops) - _SHOWN) > 0:
        lines.append(f"  and {more} cheaper ones")
    c = e.correction
    if c.networks:
        who = f"as {c.networks} measured network{'s' if c.networks > 1 else ''} took"
        lines.append(f"corrected to {_formula(e, c)}, {who}")
    else:
        lines.append("not corrected: no whole network was measured in this environment")
    if e.unpriced:
        what = ", ".join(f"{count} {name}" for name, count in sorted(e.unpriced.items()))
        where = "only inside the offset" if c.networks else "not at all"
        lines.append(f"operators without rows of their own, priced {where}: {what}")
    lines += [f"note: {flag}" for flag in e.flags]
    return "\n".join(lines)


def _formula(estimate: Estimate, correction: OperatorCorrection) -> str:
    if isinstance(correction, TermsCorrection):
        shares = estimate.latency_us - correction.call_us
        return (
            f"{shares:.1f} us by each operator's kind, weights and activations (x {shares / estimate.raw_sum_us:.3f}) "
            f"+ {correction.call_us:.1f} us for the call"
        )
    if isinstance(correction, NetworkCorrection):
        launches = f" + {correction.per_kernel_us:.2f} us x {estimate.kernels} kernels"
        return f"{correction.slope:.3f} x sum{launches} + {correction.offset_us:.1f} us"
    slope = getattr(correction, "slope", 1.0)
    return f"{slope:.3f} x sum + {correction.call_us:.1f} us"
