"""How the prices of a network's parts become its latency, with an interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from latency_model.columns import ConvColumns
from latency_model.conformal import sum_interval
from latency_model.corrections import weight_bytes
from latency_model.errors import InputError
from latency_model.estimate import Estimate, SiteCost
from latency_model.networks.kernels import Kernel, kernels_of
from latency_model.networks.prices import NetworkPrices, bare
from latency_model.ops import Config
from latency_model.pricing import ConvPrice

if TYPE_CHECKING:
    from latency_model.model import LatencyModel
    from latency_model.network import NetworkCost

__all__ = ["by_kernels", "by_rows"]

# Quantile of the normal distribution of the 95 % intervals that measurements come with.
_Z95 = 1.959963984540054
_GUESSED = ("regressed", "extrapolated")


def by_rows(
    model: LatencyModel,
    network: NetworkCost,
    counts: Mapping[str, int],
    confidence: float,
    family: str | None = None,
) -> Estimate:
    """Return the estimate as the corrected sum of rows.

    The intervals of measured rows are joined as independent and normal; those of regressed ones as correlated
    (``sum_interval``), and what the correction leaves open is added. Where networks of several families were
    measured, the interval is that of networks that the correction did not know, with the regressed rows' part added.
    """
    shapes = list(network.shapes(counts))
    others = list(network.op_shapes(counts, reorders=model.reorders))
    total = weight_bytes([*(shape for _, shape in shapes), *(shape for _, shape in others)])
    correction = model.correction

    def share(shape: Config, row_us: float) -> float:
        return correction.operator_us(shape, row_us, total_weight_bytes=total)

    priced = model.convs.at([shape for _, shape in shapes], confidence=confidence)
    sites = [
        SiteCost(
            site.name, shape, price.latency_us, price.source, corrected_us=share(shape, price.latency_us)
        )
        for (site, shape), price in zip(shapes, priced, strict=True)
    ]
    variance = sum(
        ((price.high_us - price.low_us) / (2 * _Z95)) ** 2 for price in priced if price.source not in _GUESSED
    )
    flags = Counter[str]()
    for site in sites:
        flags["padded: the next measured channel counts were used"] += "padded" in site.source
        flags["reconstructed from other channel counts, not measured"] += "reconstructed" in site.source
        flags["rows with another bias were used"] += "other bias" in site.source
        flags["regressed: not measured, predicted from other convolutions"] += site.source == "regressed"
        flags["extrapolated: beyond the sizes of all rows"] += site.source == "extrapolated"
        row = None if site.shape is None else model.table.measured(site.shape)
        for flag in row.flags if row is not None else ():
            flags[f"measured as {flag}"] += 1
    ops, unpriced = [], Counter[str](network.others)
    for op, size in others:
        price = model.ops.at(op, size)
        if price is None:
            unpriced[size.op] += 1
            continue
        corrected = share(size, price.latency_us)
        ops.append(SiteCost(op.name, size, price.latency_us, price.source, corrected_us=corrected))
        variance += ((price.high_us - price.low_us) / (2 * _Z95)) ** 2
    raw = math.fsum(part.latency_us for part in (*sites, *ops))
    shares = math.fsum(part.corrected_us for part in (*sites, *ops))
    value = correction.call_us + shares
    factor = shares / raw  # of the rows' own uncertainty
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    if model.families is not None:
        bottom, top = model.families.interval(value, family=family, confidence=confidence)
        below, above = max(0.0, value - bottom), max(0.0, top - value)
    else:
        _no_family(family)
        below = above = z * math.hypot(factor * math.sqrt(variance), correction.spread * value)
    lower, upper = (factor * part for part in _guessed(priced))
    said = [f"{text} ({count} of {len(sites)} sites)" for text, count in flags.items() if count]
    if between := sum(op.source == "interpolated" for op in ops):
        said.append(f"interpolated between measured sizes ({between} of {len(ops)} other operators)")
    if not correction.networks:
        said.insert(0, "uncorrected")
    return Estimate(
        latency_us=value,
        low_us=max(0.0, value - math.hypot(below, lower)),
        high_us=value + math.hypot(above, upper),
        raw_sum_us=raw,
        confidence=confidence,
        family=family,
        sites=tuple(sites),
        unpriced=MappingProxyType(dict(unpriced)),
        flags=(*said, *model.notes),
        correction=correction,
        ops=tuple(ops),
    )


def _guessed(prices: Sequence[ConvPrice]) -> tuple[float, float]:
    """Return how far the sum of the regressed prices may lie below and above."""
    parts = [(p.latency_us, p.low_us, p.high_us) for p in prices if p.source in _GUESSED]
    if not parts:
        return 0.0, 0.0
    latency, low, high = np.array(parts).T
    lowest, highest = sum_interval(latency, low, high)
    return float(latency.sum()) - lowest, highest - float(latency.sum())


def by_kernels(
    model: LatencyModel,
    prices: NetworkPrices,
    network: NetworkCost,
    counts: Mapping[str, int],
    confidence: float,
    family: str | None = None,
) -> Estimate:
    """Return the estimate as the corrected sum of the kernels that the runtime launches.

    The interval is that of networks that the fit did not know; without several families, rows and
    kernels are joined as correlated.
    """
    kernels = kernels_of(network, prices.runtime, counts=counts)
    convs = [kernel for kernel in kernels if kernel.shape is not None]
    shapes = [bare(kernel.shape) for kernel in convs if kernel.shape is not None]
    latency, low, high, sources = model.convs.exact(
        ConvColumns.of(shapes), confidence=confidence, for_sums=True
    )
    sites = [
        SiteCost(kernel.name, shape, us, source)
        for kernel, shape, us, source in zip(convs, shapes, latency.tolist(), sources, strict=True)
    ]
    ops, low_us, high_us = [], low.tolist(), high.tolist()
    for kernel in kernels:
        if kernel.shape is None:
            price = prices.glue.price(kernel)
            ops.append(SiteCost(kernel.name, None, price.latency_us, price.source, _described(kernel)))
            factor = math.exp(NormalDist().inv_cdf(0.5 + confidence / 2) * price.spread)
            low_us.append(price.latency_us / factor)
            high_us.append(price.latency_us * factor)
    parts = [site.latency_us for site in (*sites, *ops)]
    raw = math.fsum(parts)
    value = prices.correction.apply(raw, len(kernels))
    sites, ops = (
        [replace(p, corrected_us=prices.correction.operator_us(p.shape, p.latency_us)) for p in some]
        for some in (sites, ops)
    )
    if prices.families is not None:
        bottom, top = prices.families.interval(value, family=family, confidence=confidence)
    else:
        _no_family(family)
        bottom, top = sum_interval(np.array(parts), np.array(low_us), np.array(high_us))
        spread = NormalDist().inv_cdf(0.5 + confidence / 2) * prices.correction.spread * value
        bottom = max(0.0, value - math.hypot(raw - bottom, spread))
        top = value + math.hypot(top - raw, spread)
    flags = []
    for word, text in (
        ("regressed", "regressed: not measured, predicted from other convolutions"),
        ("extrapolated", "extrapolated: beyond the sizes of all rows"),
    ):
        if count := sources.count(word):
            flags.append(f"{text} ({count} of {len(sites)} sites)")
    for word in ("borrowed", "assumed"):
        if found := Counter(op.what.split()[0] for op in ops if op.source == word):
            names = ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))
            flags.append(f"kernels priced like others because none was measured: {names}")
    return Estimate(
        latency_us=value,
        low_us=min(bottom, value),
        high_us=max(top, value),
        raw_sum_us=raw,
        confidence=confidence,
        family=family,
        sites=tuple(sites),
        unpriced=MappingProxyType(dict(network.others)),
        flags=(*flags, *model.notes),
        correction=prices.correction,
        ops=tuple(ops),
        kernels=len(kernels),
    )


def _no_family(family: str | None) -> None:
    if family is not None:
        raise InputError(
            f"the model has no intervals of families, so it cannot say what it is for one of {family!r}; fit it on "
            "measured networks of several families, or leave the family out"
        )


def _described(kernel: Kernel) -> str:
    return f"{kernel.kind} of {kernel.moved_bytes / 1e3:.0f} kB"
