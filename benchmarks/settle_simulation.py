"""Which rule for repeated builds keeps two independent runs from quoting different kernels?

    python benchmarks/settle_simulation.py

Each scenario gives every row a distribution over two or three choices such that two single builds differ in
6.9 % of the rows, as measured on an H100; the slow choice takes 59 % longer. Each rule settles every row in two
independent runs. Writes settle_simulation.csv beside this file:

flips           share of rows in which the two runs quote different choices
builds          mean number of builds of a row in one run
user_agrees     probability that a user's own single build makes the quoted choice
user_bias       mean of log(quoted time / time of a user's single build), in per cent
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from profiler.gpu.settle import SettleRule, settle, wants_more

ROWS = 10_000
FLIPS = 0.069
SLOWER = 1.59
NAMES = ("fast", "slow", "slower")
TIMES = dict(zip(NAMES, (1.0, SLOWER, SLOWER**2), strict=True))

Shares = NDArray[np.float64]


def _two(fast: Shares) -> Shares:
    return np.stack([fast, 1 - fast, np.zeros_like(fast)], axis=1)


def _part(rng: np.random.Generator, fast: Shares) -> Shares:
    """Return rows of which only so many can flip that FLIPS is right; the others always choose the same."""
    shares = _two(fast)
    flips = float(np.mean(1 - (shares**2).sum(axis=1)))
    if flips < FLIPS:
        raise ValueError("too few flips in this scenario")
    steady = rng.random(len(fast)) >= FLIPS / flips
    shares[steady] = (1.0, 0.0, 0.0)
    return shares


def hiccup_everywhere(_: np.random.Generator) -> Shares:
    """Every row has the same small chance of a bad build: 2 p (1 - p) = FLIPS."""
    slow = (1 - np.sqrt(1 - 2 * FLIPS)) / 2
    return _two(np.full(ROWS, 1 - slow))


def hiccup_in_some(rng: np.random.Generator) -> Shares:
    """A part of the rows has a bad build with 5 to 25 %."""
    return _part(rng, 1 - rng.uniform(0.05, 0.25, ROWS))


def skewed(rng: np.random.Generator) -> Shares:
    """Many rows with a small chance of a bad build, few with a large one."""
    return _part(rng, 1 - rng.beta(0.5, 3.0, ROWS))


def uniform(rng: np.random.Generator) -> Shares:
    """A part of the rows chooses the fast kernel with any probability alike."""
    return _part(rng, rng.uniform(0.0, 1.0, ROWS))


def either_end(rng: np.random.Generator) -> Shares:
    """Beta(a, a) with the a that gives FLIPS, a / (2 a + 1): rows lean strongly to one side, either one."""
    a = FLIPS / (1 - 2 * FLIPS)
    return _two(rng.beta(a, a, ROWS))


def coin(rng: np.random.Generator) -> Shares:
    """The worst case: a few rows toss a coin at every build."""
    return _part(rng, np.full(ROWS, 0.5))


def three_choices(rng: np.random.Generator) -> Shares:
    """Like ``skewed``, with the bad builds spread over two slow choices."""
    shares = skewed(rng)
    split = rng.uniform(0.0, 1.0, ROWS)
    return np.stack([shares[:, 0], shares[:, 1] * split, shares[:, 1] * (1 - split)], axis=1)


def search(rng: np.random.Generator) -> Shares:
    """A search that times three algorithms twice each and takes the smaller: noise, and hiccups of 1.2-3 times.

    The hiccup rate is what gives FLIPS, found by bisection; the gaps between algorithms are log-normal.
    """
    gap = np.exp(np.abs(rng.normal(0.0, 0.6, (ROWS, 1))))
    times = np.concatenate([np.ones((ROWS, 1)), gap, gap * 1.3], axis=1)
    low, high = 0.0, 0.9
    for _ in range(12):
        rate = (low + high) / 2
        draws = times[None, :, None, :] * np.exp(rng.normal(0, 0.02, (24, ROWS, 2, 3)))
        draws = draws * np.where(rng.random(draws.shape) < rate, rng.uniform(1.2, 3.0, draws.shape), 1.0)
        chosen = draws.min(axis=2).argmin(axis=2)
        shares = np.stack([(chosen == k).mean(axis=0) for k in range(3)], axis=1)
        # the share of pairs of *different* builds that differ, unbiased for the few draws
        flips = float(np.mean(1 - (shares**2).sum(axis=1))) * 24 / 23
        low, high = (rate, high) if flips < FLIPS else (low, rate)
    return shares


SCENARIOS: tuple[Callable[[np.random.Generator], Shares], ...] = (
    hiccup_everywhere,
    hiccup_in_some,
    skewed,
    three_choices,
    search,
    either_end,
    uniform,
    coin,
)

RULES = {
    "1 build": SettleRule(least=1, most=1),
    **{
        f"{least} agree or {most}, {quote}": SettleRule(least=least, most=most, quote=quote)
        for quote in ("mode", "repeated", "fastest")
        for least, most in ((3, 3), (3, 8), (4, 8), (8, 8), (5, 12))
    },
}


def run(rng: np.random.Generator, shares: Shares, rule: SettleRule) -> tuple[list[str], int]:
    """Return what each row quotes, and the number of builds."""
    draws = rng.random((ROWS, rule.most))[:, :, None] > np.cumsum(shares, axis=1)[:, None, :2]
    quoted, builds = [], 0
    for row in draws.sum(axis=2):
        seen: list[str] = []
        while wants_more(seen, rule=rule):
            seen.append(NAMES[row[len(seen)]])
        builds += len(seen)
        quoted.append(settle(seen, [TIMES[name] for name in seen], rule=rule).kernels)
    return quoted, builds


def main() -> None:
    """Simulate every rule in every scenario."""
    lines = []
    for scenario in SCENARIOS:
        shares = scenario(np.random.default_rng(0))
        log_user = shares @ np.log([TIMES[name] for name in NAMES])
        for name, rule in RULES.items():
            rng = np.random.default_rng(1)
            (first, builds), (second, _) = run(rng, shares, rule), run(rng, shares, rule)
            flips = np.mean([a != b for a, b in zip(first, second, strict=True)])
            agrees = np.mean([shares[k, NAMES.index(choice)] for k, choice in enumerate(first)])
            bias = np.mean(np.log([TIMES[choice] for choice in first]) - log_user)
            numbers = (100 * flips, builds / ROWS, 100 * agrees, 100 * bias)
            lines.append((scenario.__name__, name, *(f"{number:.2f}" for number in numbers)))
            print(*lines[-1], sep="\t")
    path = Path(__file__).with_suffix(".csv")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("scenario", "rule", "flips_percent", "builds", "user_agrees_percent", "user_bias_percent")
        )
        writer.writerows(lines)


if __name__ == "__main__":
    main()
