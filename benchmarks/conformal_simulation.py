"""Which interval of a network of an unseen family covers as often as it says, with few families?

    python benchmarks/conformal_simulation.py [--draws 2000] [--seed 0]

Each draw makes 8, 11 or 14 families of 5 to 15 networks, log ratio = bias + family effect + network effect, and asks
for an interval of one more network of a family that is not among them (``unseen``) or of one that is (``known``).
Standard deviations of the family and the network effect, and the shape of both: normal, Student's t with 3 degrees of
freedom (heavy tails), a shifted exponential (skewed), and normal with a scatter of its own in every family (uneven).
Writes conformal_simulation.csv beside this file: coverage, half width (mean of half the log width; ``inf`` in draws
where it is infinite is counted in ``infinite``), for

pooled          split-conformal quantile of |log ratio - median| over all networks as if they were exchangeable
one_each        the same over one random network of each family (Dunn, Wasserman and Ramdas 2022)
hierarchical    all networks, weight 1 / ((K + 1) N_k) (Lee, Barber and Willett 2023)
random_effects  ``FamilyConformal``, which is what Gharial uses
"""

from __future__ import annotations

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
from common import write_lines

from latency_model.conformal import FamilyConformal

SPREADS = ((0.0, 0.05), (0.01, 0.05), (0.03, 0.03), (0.05, 0.02), (0.1, 0.02))
SHAPES = ("normal", "heavy", "skewed", "uneven")


def effects(rng: np.random.Generator, shape: str, size: int) -> np.ndarray:
    """Return effects of mean 0 and variance 1."""
    if shape == "heavy":
        return rng.standard_t(3, size) / math.sqrt(3)
    if shape == "skewed":
        return rng.exponential(1.0, size) - 1
    return rng.normal(size=size)


def draw(rng, shape, families, between, within):
    """Return families, log ratios, the ratio of a network of an unseen family, and one of the first family."""
    sizes = rng.integers(5, 16, families)
    centres = 0.02 + between * effects(rng, shape, families + 1)
    scatter = within * (rng.uniform(0.3, 1.4, families + 1) if shape == "uneven" else np.ones(families + 1))
    names = np.repeat(np.arange(families), sizes)
    ratios = centres[names] + scatter[names] * effects(rng, shape, len(names))
    unseen = centres[-1] + scatter[-1] * effects(rng, shape, 1)[0]
    known = centres[0] + scatter[0] * effects(rng, shape, 1)[0]
    return names, ratios, float(unseen), float(known)


def quantile(distances: np.ndarray, weights: np.ndarray, confidence: float) -> float:
    """Return the weighted quantile; what is missing from a weight of 1 lies at infinity."""
    order = np.argsort(distances)
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, confidence - 1e-9))
    return float(distances[order][place]) if place < len(order) else math.inf


def intervals(rng, names, ratios, confidence):
    """Return the interval of each method for an unseen family, as (low, high) of the log ratio."""
    centre = float(np.median(ratios))
    distance = np.abs(ratios - centre)
    n, sizes = len(ratios), np.bincount(names)
    families = len(sizes)
    pick = np.array([rng.choice(np.flatnonzero(names == f)) for f in range(families)])
    halves = {
        "pooled": quantile(distance, np.full(n, 1 / (n + 1)), confidence),
        "one_each": quantile(distance[pick], np.full(families, 1 / (families + 1)), confidence),
        "hierarchical": quantile(distance, 1 / ((families + 1) * sizes[names]), confidence),
    }
    found = {name: (centre - half, centre + half) for name, half in halves.items()}
    fitted = FamilyConformal.fit([str(name) for name in names], ratios)
    low, high = fitted.interval(1.0, None, confidence)
    found["random_effects"] = (math.log(low), math.log(high))
    low, high = fitted.interval(1.0, "0", confidence)
    found["random_effects known"] = (math.log(low), math.log(high))
    return found


def main() -> None:
    """Run every scenario and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    rows = []
    for shape, families, (between, within) in itertools.product(SHAPES, (8, 11, 14), SPREADS):
        rng = np.random.default_rng([options.seed, SHAPES.index(shape), families, round(1e4 * between)])
        hits: dict[tuple[str, float], list[bool]] = {}
        widths: dict[tuple[str, float], list[float]] = {}
        for _ in range(options.draws):
            names, ratios, unseen, known = draw(rng, shape, families, between, within)
            for confidence in (0.9, 0.95):
                for method, (low, high) in intervals(rng, names, ratios, confidence).items():
                    target = known if method.endswith("known") else unseen
                    hits.setdefault((method, confidence), []).append(low <= target <= high)
                    widths.setdefault((method, confidence), []).append((high - low) / 2)
        for (method, confidence), found in hits.items():
            half = np.array(widths[method, confidence])
            finite = half[np.isfinite(half)]
            rows.append(
                {
                    "shape": shape,
                    "families": families,
                    "between": between,
                    "within": within,
                    "method": method.removesuffix(" known"),
                    "family": "known" if method.endswith("known") else "unseen",
                    "confidence": confidence,
                    "coverage": round(float(np.mean(found)), 4),
                    "half_width": round(float(finite.mean()), 4) if len(finite) else "inf",
                    "infinite": round(1 - len(finite) / len(half), 4),
                    "draws": options.draws,
                    "seed": options.seed,
                }
            )
    write_lines(options.out, rows)


if __name__ == "__main__":
    main()
