"""Whole networks on one H100 from rows of single convolutions, each family predicted by a model without it.

    python benchmarks/networks_h100.py ../shared/data/h100_probe [--regressor module:factory]

The convolutions are priced by a regression on ``rows.parquet`` (or looked up, where that file has the very
shape), everything else by ``GluePrices``, the whole by ``NetworkCorrection``; the last two are fitted on the
row file and on the networks of the OTHER families. Nothing is ever taken from the network's own trace except in
the lines called "oracle", which say what a perfect price of that part would give. Families: the spec's family
with its block (resnet-basic, resnet-bottleneck, vgg with torchvision's vgg13_bn, mobilenet_v2), or torchvision's
name without sizes (wide_resnet, alexnet).

``--regressor`` names a callable without arguments that returns an object with ``fit(columns, latency_us)`` and
``predict(columns)``; the stand-in here is gradient boosting on the ratio to a roofline (seeds 0 to 4). Raw
results: ``networks_h100.csv``.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from latency_model.columns import ConvColumns, Kind
from latency_model.networks import (
    GluePrices,
    GlueSample,
    MeasuredNetwork,
    Traced,
    align,
    fit_network_correction,
    kernels_of,
    read_networks,
    samples_of_rows,
    samples_of_trace,
)

Array = NDArray[np.float64]
_SIZES = ("batch", "in_channels", "height", "width", "out_channels", "groups")
_GLUE = ("bias_us", "relu_us", "transpose_in_us", "transpose_out_us")
_SMS = 132


class Regressor(Protocol):
    """What prices convolutions that no row has."""

    def fit(self, columns: ConvColumns, latency_us: Array) -> Any: ...

    def predict(self, columns: ConvColumns) -> Array: ...


class Boosting:
    """The stand-in: five boosted forests on the logarithm of the ratio to a roofline."""

    def fit(self, columns: ConvColumns, latency_us: Array) -> Boosting:
        from sklearn.ensemble import HistGradientBoostingRegressor

        features, roof = _features(columns)
        options = {"max_iter": 400, "learning_rate": 0.06, "max_leaf_nodes": 24, "min_samples_leaf": 8}
        self.models = [
            HistGradientBoostingRegressor(
                random_state=seed, l2_regularization=1.0, max_features=0.5, **options
            )
            for seed in range(5)
        ]
        for model in self.models:
            model.fit(features, np.log(latency_us / roof))
        return self

    def predict(self, columns: ConvColumns) -> Array:
        features, roof = _features(columns)
        return np.exp(np.mean([model.predict(features) for model in self.models], axis=0)) * roof


def _features(columns: ConvColumns) -> tuple[Array, Array]:
    batch, inputs, height, _, outputs, groups = (getattr(columns, name).astype(float) for name in _SIZES)
    kernel, stride = (columns.each(name, 0).astype(float) for name in ("kernel", "stride"))
    pixels = batch * columns.out_height * columns.out_width
    depth = inputs / groups * kernel**2
    flops, moved = (
        2 * pixels * outputs * depth,
        2 * (batch * inputs * height**2 + pixels * outputs + outputs * depth),
    )
    roof = 2.0 + flops / 6e8 + moved / 2.2e6
    logs = (
        batch,
        inputs,
        outputs,
        height,
        columns.out_height,
        pixels,
        depth,
        flops,
        moved,
        outputs * depth,
        roof,
    )
    made = [np.log(value) for value in logs]
    made += [kernel, stride, groups > 1, (inputs % 8 > 0) | (outputs % 8 > 0), flops / moved]
    made += [size % step for step in (2, 4, 8, 16, 32, 64) for size in (inputs, outputs)]
    for rows, cols in ((64, 64), (128, 64), (128, 128), (256, 128), (64, 256), (128, 256)):
        tiles = np.ceil(pixels / rows) * np.ceil(outputs / cols)
        waves = tiles / _SMS
        made += [
            np.log(tiles),
            np.ceil(waves),
            waves / np.ceil(waves),
            outputs / (np.ceil(outputs / cols) * cols),
        ]
    return np.column_stack([np.asarray(value, dtype=float) for value in made]), roof


def read_rows(path: Path) -> tuple[ConvColumns, pd.DataFrame]:
    frame = pd.read_parquet(path)
    pairs = list(zip(frame.kernel_size, frame.stride, strict=True))
    known = sorted(set(pairs))
    kinds = tuple(
        Kind((k, k), (s, s), (k // 2,) * 4, (1, 1), "conv+bias+relu", "fp16", "nhwc") for k, s in known
    )
    sizes = {name: frame[name if name != "width" else "height"].to_numpy(np.int64) for name in _SIZES}
    return ConvColumns(**sizes, kind=np.array([known.index(pair) for pair in pairs]), kinds=kinds), frame


def conv_prices(columns: ConvColumns, latency_us: Array, regressor: Regressor, shapes: list[Any]) -> Array:
    """Return the price of each of ``shapes``: the row of that shape, else the regression."""
    wanted = ConvColumns.of(shapes)
    price = regressor.fit(columns, latency_us).predict(wanted)
    rows: dict[tuple[Any, ...], list[float]] = {}
    for key, us in zip(_keys(columns), latency_us.tolist(), strict=True):
        rows.setdefault(key, []).append(us)
    exact = [rows.get(key) for key in _keys(wanted)]
    return np.array([p if e is None else float(np.median(e)) for p, e in zip(price, exact, strict=True)])


def _keys(columns: ConvColumns) -> list[tuple[Any, ...]]:
    names = [getattr(columns, name).tolist() for name in _SIZES]
    return list(
        zip(*names, columns.each("kernel", 0).tolist(), columns.each("stride", 0).tolist(), strict=True)
    )


def flops_rate(columns: ConvColumns, latency_us: Array) -> float:
    """Return the best rate of any row, in operations per microsecond."""
    depth = columns.in_channels // columns.groups * columns.each("kernel", 0) * columns.each("kernel", 1)
    pixels = columns.batch * columns.out_height * columns.out_width
    return float((2.0 * pixels * columns.out_channels * depth / latency_us).max())


def sums(
    networks: list[MeasuredNetwork],
    traced: list[tuple[Traced, ...]],
    conv: list[Array],
    rows: list[GlueSample],
    rate: float,
) -> pd.DataFrame:
    """Return, per network, predicted and traced sums of convolutions and of everything else."""
    found: dict[int, dict[str, Any]] = {}
    for family in sorted({network.family for network in networks}):
        other = [
            s
            for n, t in zip(networks, traced, strict=True)
            if n.family != family
            for s in samples_of_trace(t)
        ]
        glue = GluePrices.fit([*rows, *other], flops_per_us=rate)
        for place, (network, kernels) in enumerate(zip(networks, traced, strict=True)):
            if network.family == family:
                rest = [t for t in kernels if t.kernel.kind != "conv"]
                found[place] = {
                    "name": network.name,
                    "family": family,
                    "batch": network.batch,
                    "measured_us": network.measured_us,
                    "kernels": len(kernels),
                    "traced_us": network.kernel_sum_us,
                    "conv_us": float(conv[place].sum()),
                    "conv_traced_us": sum(t.latency_us for t in kernels if t.kernel.kind == "conv"),
                    "glue_us": sum(glue.price(t.kernel).latency_us for t in rest),
                    "glue_traced_us": sum(t.latency_us for t in rest),
                }
    return pd.DataFrame([found[place] for place in range(len(networks))])


def held_out(frame: pd.DataFrame, total: pd.Series) -> Array:
    """Return each network's latency with a correction fitted on the other families."""
    predicted = np.empty(len(frame))
    for family in frame.family.unique():
        held = (frame.family == family).to_numpy()
        seen = frame[~held]
        correction = fit_network_correction(
            total[~held].tolist(), seen.kernels.tolist(), seen.measured_us.tolist(), seen.family.tolist()
        )
        counts = frame.kernels[held]
        predicted[held] = [correction.apply(s, k) for s, k in zip(total[held], counts, strict=True)]
    return predicted


def report(label: str, predicted: Any, truth: Any) -> None:
    error = np.asarray(predicted) / np.asarray(truth) - 1
    within = float((np.abs(error) <= 0.1).mean())
    print(
        f"{label:34s} MAPE {np.abs(error).mean():6.2%}  bias {error.mean():+6.2%}  "
        f"worst {np.abs(error).max():6.2%}  within 10 % {within:4.0%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--regressor", default="")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    factory: Callable[[], Regressor] = Boosting
    if options.regressor:
        module, _, name = options.regressor.partition(":")
        factory = cast(Callable[[], Regressor], getattr(importlib.import_module(module), name))
    columns, rows = read_rows(options.data / "rows.parquet")
    networks = list(read_networks(options.data / "networks.json.gz"))
    aligned = [align(kernels_of(network.network), network.trace) for network in networks]
    print(f"{sum(a is not None for a in aligned)} of {len(aligned)} traces are the expected kernels exactly")
    traced = [a if a is not None else () for a in aligned]
    convs = [[t for t in a if t.kernel.kind == "conv"] for a in traced]
    latency = rows.conv_us.to_numpy(float)
    prices = conv_prices(columns, latency, factory(), [t.kernel.shape for c in convs for t in c])
    split = np.split(prices, np.cumsum([len(c) for c in convs])[:-1])
    report("one convolution", prices, [t.latency_us for c in convs for t in c])
    samples = samples_of_rows(columns, **{name: rows[name].to_numpy() for name in _GLUE})
    frame = sums(networks, traced, split, samples, flops_rate(columns, latency))
    frame["raw_sum_us"] = frame.conv_us + frame.glue_us
    frame["predicted_us"] = held_out(frame, frame.raw_sum_us)
    report("sum of convolutions", frame.conv_us, frame.conv_traced_us)
    report("sum of the other kernels", frame.glue_us, frame.glue_traced_us)
    report("raw sum against traced sum", frame.raw_sum_us, frame.traced_us)
    report("raw sum against measured", frame.raw_sum_us, frame.measured_us)
    report("traced sum against measured", frame.traced_us, frame.measured_us)
    report("PREDICTED AGAINST MEASURED", frame.predicted_us, frame.measured_us)
    for label, total in (
        ("oracle convolutions", frame.conv_traced_us + frame.glue_us),
        ("oracle other kernels", frame.conv_us + frame.glue_traced_us),
        ("oracle both", frame.traced_us),
    ):
        report(label, held_out(frame, total), frame.measured_us)
    for family, part in frame.groupby("family"):
        report(f"  {family} ({len(part)})", part.predicted_us, part.measured_us)
    for batch, part in frame.groupby("batch"):
        report(f"  batch {batch} ({len(part)})", part.predicted_us, part.measured_us)
    frame.round(3).to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
