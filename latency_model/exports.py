"""A table's rows as CSV, plain Parquet or JSON, and one site's staircase as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError
from latency_model.files import write_atomic, write_text
from latency_model.grid import ChannelGrid, efficient_counts
from latency_model.table import LatencyTable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["export", "plot", "records"]

_FORMATS = (".csv", ".parquet", ".json")
_PLOTS = (".png", ".html")
_MOST_LINES = 6


def records(table: LatencyTable) -> list[dict[str, Any]]:
    """Return one flat dictionary per convolution row, in the order of the shapes."""
    rows = []
    for shape in sorted(table):
        row = table[shape]
        top, left, bottom, right = shape.padding
        rows.append(
            {
                "config": shape.text,
                "batch": shape.batch,
                "in_channels": shape.in_channels,
                "out_channels": shape.out_channels,
                "height": shape.height,
                "width": shape.width,
                "kernel_size": shape.kernel[0],
                "kernel_width": shape.kernel[1],
                "stride": shape.stride[0],
                "stride_width": shape.stride[1],
                "padding": top,
                "padding_left": left,
                "padding_bottom": bottom,
                "padding_right": right,
                "dilation": shape.dilation[0],
                "dilation_width": shape.dilation[1],
                "groups": shape.groups,
                "pattern": shape.pattern,
                "precision": shape.precision,
                "layout": shape.layout,
                "latency_us": row.latency_us,
                "low_us": row.low_us,
                "high_us": row.high_us,
                "samples": row.samples,
                "method": row.method,
                "flags": " ".join(row.flags),
                "measured_at": row.measured_at,
            }
        )
    return rows


def export(table: LatencyTable, path: Path) -> None:
    """Write the convolution rows to ``path`` in the format of its ending: .csv, .parquet or .json."""
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"cannot export to {path.name}; its ending must be {', '.join(_FORMATS)}")
    if suffix == ".json":
        data = {"environment": table.environment.to_json(), "rows": records(table)}
        write_text(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
        return
    import pandas as pd

    frame: pd.DataFrame = pd.DataFrame(records(table))
    if suffix == ".csv":
        write_atomic(path, lambda target: frame.to_csv(target, index=False))
    else:
        write_atomic(path, lambda target: frame.to_parquet(target, index=False))


def plot(table: LatencyTable, grid: ChannelGrid, path: Path) -> None:
    """Draw one site's latency over its output channels, a line per input count, as .png or .html."""
    suffix = path.suffix.lower()
    if suffix not in _PLOTS:
        raise InputError(f"cannot draw {path.name}; its ending must be {' or '.join(_PLOTS)}")
    lines = _lines(grid)
    shape = grid.site
    title = (
        f"{shape.kernel[0]}x{shape.kernel[1]} convolution, {shape.height}x{shape.width}, "
        f"batch {shape.batch}, stride {shape.stride[0]}, {shape.pattern}, {shape.precision}"
    )
    draw = _png if suffix == ".png" else _html
    draw(lines, title, table.environment.text, path)


_Line = tuple[str, list[int], list[float], list[float], list[float], list[bool]]


def _lines(grid: ChannelGrid) -> list[_Line]:
    """Return (label, counts, microseconds, low, high, efficient) for some input counts, the largest first."""
    if grid.linked:
        chosen: list[tuple[str, Any]] = [("depthwise", grid.inputs > 0)]
    else:
        counts = sorted(set(grid.inputs.tolist()), reverse=True)
        step = max(1, -(-len(counts) // _MOST_LINES))
        chosen = [(f"{count} input channels", grid.inputs == count) for count in counts[::step]]
    lines = []
    for label, mask in chosen:
        outputs = grid.outputs[mask].tolist()
        latency = grid.latency_us[mask]
        envelope = [0.0, *(min(latency[index:]) for index in range(len(outputs)))]
        best = {outputs[place - 1] for place in efficient_counts(envelope)}
        lines.append(
            (
                label,
                outputs,
                latency.tolist(),
                grid.low_us[mask].tolist(),
                grid.high_us[mask].tolist(),
                [count in best for count in outputs],
            )
        )
    return lines


def _png(lines: list[_Line], title: str, environment: str, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for label, counts, latency, low, high, best in lines:
        (drawn,) = axes.plot(counts, latency, drawstyle="steps-pre", marker=".", label=label)
        axes.fill_between(counts, low, high, step="pre", alpha=0.2, color=drawn.get_color())
        edge = [index for index, flag in enumerate(best) if flag]
        axes.plot(
            [counts[i] for i in edge], [latency[i] for i in edge], "o", mfc="none", color=drawn.get_color()
        )
    axes.set(xlabel="output channels (circle: last of its plateau)", ylabel="latency (µs)")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{title}\n{environment}", fontsize=9)
    axes.legend(fontsize=8)
    write_atomic(path, lambda target: figure.savefig(target, dpi=150, format="png"))


def _html(lines: list[_Line], title: str, environment: str, path: Path) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for label, counts, latency, low, high, best in lines:
        figure.add_scatter(
            x=counts,
            y=latency,
            name=label,
            mode="lines+markers",
            line={"shape": "vh"},
            marker={"symbol": ["circle-open" if flag else "circle" for flag in best], "size": 7},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [b - a for a, b in zip(latency, high, strict=True)],
                "arrayminus": [a - b for a, b in zip(latency, low, strict=True)],
            },
        )
    figure.update_layout(
        title=f"{title}<br><sup>{environment}</sup>",
        xaxis_title="output channels (open circle: last of its plateau)",
        yaxis={"title": "latency (µs)", "rangemode": "tozero"},
    )
    write_text(path, figure.to_html(include_plotlyjs=True))
