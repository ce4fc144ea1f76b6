"""The latency of a network as a differentiable function of gates or of real channel counts.

============================ ===============================================================================
``ExpectedLatency``          expectation under independent gates, exact or fast
``InterpolatedLatency``      multilinear interpolation at real counts, for methods without gates
``smoothed``                 matrices averaged over neighbouring counts, a width to be annealed to 0
``count_pmf``                the distribution of the number of open gates of one group
============================ ===============================================================================
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latency_model.expectation.gates import ExpectedLatency
    from latency_model.expectation.interpolated import InterpolatedLatency
    from latency_model.expectation.pmf import count_pmf
    from latency_model.expectation.smoothing import smoothed

__all__ = ["ExpectedLatency", "InterpolatedLatency", "count_pmf", "smoothed"]

_HOMES = {
    "ExpectedLatency": "gates",
    "InterpolatedLatency": "interpolated",
    "count_pmf": "pmf",
    "smoothed": "smoothing",
}


def __getattr__(name: str) -> Any:
    # torch is imported with the first name that needs it, not with the package.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
