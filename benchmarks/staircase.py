"""The staircase of the README: one convolution at every channel count, on this CPU and on an H100.

    python benchmarks/staircase.py --rows PATH/h100_probe/rows.parquet

Writes benchmarks/staircase/cpu.parquet (resumable), cpu.csv, h100.csv and docs/staircase.png. Without --rows
the H100's part is read from benchmarks/staircase/h100.csv.
"""

import argparse
from pathlib import Path

import matplotlib
import pandas as pd

from latency_model import ConvShape, LatencyTable
from latency_model.files import write_atomic
from profiler import open_backend, profile

HERE = Path(__file__).resolve().parent
OUT = HERE / "staircase"
SITE = ConvShape.parse("1x64x16x16 ->64 k3 s1 p1 g1 conv+bias+relu fp32 nchw")
H100 = {"batch": 8, "in_channels": 256, "height": 14, "kernel_size": 3, "stride": 1, "groups": 1}


def measure() -> LatencyTable:
    shapes = [SITE.with_channels(64, count) for count in range(1, 97)]
    with open_backend("onnxruntime") as backend:
        return profile(backend, shapes, out=OUT / "cpu.parquet")


def h100(rows: Path | None) -> pd.DataFrame:
    path = OUT / "h100.csv"
    if rows is not None:
        table = pd.read_parquet(rows)
        mask = pd.Series(True, index=table.index)
        for column, value in H100.items():
            mask &= table[column] == value
        columns = [*H100, "out_channels", "conv_us"]
        table[mask].sort_values("out_channels").drop_duplicates("out_channels")[columns].to_csv(
            path, index=False
        )
    return pd.read_csv(path)


def draw(cpu: pd.DataFrame, gpu: pd.DataFrame, device: str) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    titles = (
        f"64 → c channels, 3x3, 16x16, batch 1, fp32\n{device}",
        "256 → c, 3x3, 14x14, batch 8, fp16\nNVIDIA H100",
    )
    for axis, data, column, title in zip(axes, (cpu, gpu), ("latency_us", "conv_us"), titles, strict=True):
        line = data.set_index("out_channels")[column]
        axis.plot(line.index, line.values, color="#b8c4ce", linewidth=1.2, zorder=1)
        aligned = line.index % 8 == 0
        axis.scatter(
            line.index[~aligned], line[~aligned], s=12, color="#8795a1", label="other counts", zorder=2
        )
        axis.scatter(
            line.index[aligned], line[aligned], s=22, color="#007a8c", label="multiples of 8", zorder=3
        )
        axis.set(title=title, xlabel="output channels c", ylabel="latency, µs", ylim=(0, None))
        axis.grid(axis="y", color="#e3e8ec")
    axes[0].legend(frameon=False, loc="lower right")
    write_atomic(HERE.parent / "docs" / "staircase.png", lambda target: figure.savefig(target, dpi=130))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=Path, help="rows.parquet of the H100 probe")
    arguments = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    table = measure()
    cpu = pd.DataFrame(
        [(s.out_channels, m.latency_us, m.low_us, m.high_us) for s, m in sorted(table.items())],
        columns=["out_channels", "latency_us", "low_us", "high_us"],
    )
    cpu.to_csv(OUT / "cpu.csv", index=False)
    draw(cpu, h100(arguments.rows), f"{table.environment.device.split(' (')[0]}, ONNX Runtime, 1 thread")


if __name__ == "__main__":
    main()
