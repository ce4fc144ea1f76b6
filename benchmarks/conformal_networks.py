"""How often do intervals of whole networks hold the latency of a family that nobody measured?

    python benchmarks/conformal_networks.py ../shared/data/h100_probe/networks.json.gz

One family at a time is left out; among the others each is left out once more to get log ratios of left-out families,
which fit the interval (``FamilyConformal``); a model of all the others predicts the networks left out. The model is a
stand-in: latency = slope * sum of the *traced* kernels + per kernel + offset, least squares of relative residuals, so
this judges the interval and not the model. Families are the names of the file, the sizes of ResNet (one design) as one
family and again apart. Writes conformal_networks.csv beside this file: a row per network and confidence.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from pathlib import Path

import numpy as np
from common import write_lines
from scipy.optimize import nnls

from latency_model.conformal import FamilyConformal


def fit(parts: np.ndarray, latency: np.ndarray) -> np.ndarray:
    """Return non-negative coefficients of the parts, by least squares of relative residuals."""
    return nnls(parts / latency[:, None], np.ones(len(latency)))[0]


def left_out(parts: np.ndarray, latency: np.ndarray, family: np.ndarray) -> np.ndarray:
    """Return log(measured / predicted) of each network by a model without its family."""
    found = np.empty(len(latency))
    for name in np.unique(family):
        mine = family == name
        found[mine] = np.log(latency[mine] / (parts[mine] @ fit(parts[~mine], latency[~mine])))
    return found


def main() -> None:
    """Judge the intervals and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    with gzip.open(options.networks, "rt") as file:
        networks = json.load(file)
    latency = np.array([network["e2e_us"] for network in networks])
    parts = np.array([[network["kernel_sum_us"], network["kernels"], 1.0] for network in networks])
    names = np.array([network["name"] for network in networks])
    coarse = np.array(
        [re.sub(r"(resnet|vgg|mobilenet).*", r"\1", name).removeprefix("wide_") for name in names]
    )
    table = []
    for level, family in (("name", names), ("design", coarse)):
        for name in np.unique(family):
            mine = family == name
            others = FamilyConformal.fit(
                family[~mine].tolist(), left_out(parts[~mine], latency[~mine], family[~mine])
            )
            predicted = parts[mine] @ fit(parts[~mine], latency[~mine])
            for value, truth, network in zip(predicted, latency[mine], names[mine], strict=True):
                for confidence in (0.9, 0.95):
                    low, high = others.interval(float(value), None, confidence)
                    table.append(
                        {
                            "families": level,
                            "family": name,
                            "network": network,
                            "confidence": confidence,
                            "measured_us": round(float(truth), 2),
                            "predicted_us": round(float(value), 2),
                            "low_us": round(low, 2),
                            "high_us": round(high, 2),
                            "covered": int(low <= truth <= high),
                        }
                    )
        for confidence in (0.9, 0.95):
            rows = [r for r in table if r["families"] == level and r["confidence"] == confidence]
            covered = np.array([r["covered"] for r in rows])
            width = np.array([(r["high_us"] - r["low_us"]) / r["predicted_us"] for r in rows])
            error = np.array([r["predicted_us"] / r["measured_us"] - 1 for r in rows])
            each = [np.mean([r["covered"] for r in rows if r["family"] == f]) for f in np.unique(family)]
            print(
                f"by {level}, {len(each)} families, {len(rows)} networks, {confidence:.0%}: covered "
                f"{covered.mean():.1%} of networks, {np.mean(each):.1%} mean over families, width {width.mean():.3f}, "
                f"MAPE {np.abs(error).mean():.2%}"
            )
    write_lines(options.out, table)


if __name__ == "__main__":
    main()
