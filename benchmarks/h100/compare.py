"""Compare two files of rows.py: kernel flips, repeatability, and whether the intervals hold.

    python benchmarks/h100/compare.py rows_a.csv rows_b.csv --out compare.csv

Bars: flips in at most 1 % of 1,000 or more rows; with the same kernels 95 % of the rows of 20 us or more
within 1.5 %, below within max(4 %, 0.4 us); 90-98 % of the intervals hold the other process's median.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd


def names(kernels: str) -> str:
    """Return the kernels of a row without their shares, which differ a little in every process."""
    return ";".join(sorted(part.rsplit("=", 1)[0] for part in str(kernels).split(";")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path, default=Path("compare.csv"))
    given = parser.parse_args()
    both = pd.read_csv(given.first).merge(pd.read_csv(given.second), on="config", suffixes=("_a", "_b"))
    both["flip"] = both.kernels_a.map(names) != both.kernels_b.map(names)
    both["difference_us"] = (both.latency_us_a - both.latency_us_b).abs()
    both["relative"] = both.difference_us / both[["latency_us_a", "latency_us_b"]].min(axis=1)
    both.to_csv(given.out, index=False)
    same = both[~both.flip]
    large = same[same.latency_us_a >= 20]
    small = same[same.latency_us_a < 20]
    near = (small.relative <= 0.04) | (small.difference_us <= 0.4)
    inside = [
        same.latency_us_b.between(same.low_us_a, same.high_us_a),
        same.latency_us_a.between(same.low_us_b, same.high_us_b),
    ]
    print(f"rows in both            {len(both)}")
    print(f"kernel flips            {100 * both.flip.mean():.2f} %")
    print(f">= 20 us within 1.5 %   {100 * (large.relative <= 0.015).mean():.1f} % of {len(large)}")
    print(f"< 20 us within bar      {100 * near.mean():.1f} % of {len(small)}")
    print(f"p95 of the difference   {100 * same.relative.quantile(0.95):.2f} %")
    print(f"intervals that hold     {100 * np.mean([each.mean() for each in inside]):.1f} %")


if __name__ == "__main__":
    main()
