"""The command `gharial inspect`: what TensorRT makes of a convolution or a network, on a device or without one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latency_model import console
from latency_model.errors import InputError

if TYPE_CHECKING:
    from latency_model.shapes import ConvShape
    from profiler.gpu.tensorrt_build import Engine
    from profiler.gpu.tensorrt_layers import Fusion

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command(
    epilog="Example: gharial inspect '8x64x56x56 ->128 k3 s1 p1 g1 conv+bias+relu fp16 nchw' "
    "--compute-capability 8.9"
)
def inspect(
    shape: Annotated[
        str,
        typer.Argument(
            metavar="SHAPE|NET.onnx",
            help="A convolution, as '8x64x56x56 ->128 k3 s1 p1 g1 conv fp16 nchw', or an ONNX file.",
        ),
    ],
    compute_capability: Annotated[
        str | None,
        typer.Option(metavar="X.Y", help="The GPU to build for, as 8.9.", show_default="that of the device"),
    ] = None,
    copies: Annotated[int, typer.Option(min=1, help="Copies of the convolution in the engine.")] = 1,
    source: Annotated[
        str, typer.Option(help="What the engine is built from: network (a definition) or onnx.")
    ] = "network",
    level: Annotated[
        int | None,
        typer.Option(help="Optimisation level of the builder, 0 to 5.", show_default="its default"),
    ] = None,
    flavour: Annotated[
        str | None,
        typer.Option(help="tensorrt or tensorrt_rtx.", show_default="the first that is installed"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Batch of the network.", show_default="that of the file, or 1")
    ] = None,
    layers: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Build nothing: take the layers that trtexec --exportLayerInfo wrote of the network's engine.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Build a TensorRT engine of one convolution, or of a network, and say what it fuses with what.

    TensorRT-RTX needs no GPU for it. Nothing is timed.
    """
    if shape.lower().endswith(".onnx"):
        from profiler.engine_network import network_view, show_network

        if copies != 1 or source != "network":
            raise InputError(
                "--copies and --source are for a single convolution; leave them out for a network"
            )
        view = network_view(
            Path(shape),
            batch=batch,
            layers_file=layers,
            compute_capability=compute_capability,
            optimisation_level=level,
            flavour=flavour,
        )
        (console.print_json if json else show_network)(view)
        return
    if batch is not None or layers is not None:
        raise InputError(
            "--batch and --layers are for a network, an ONNX file; a convolution names its batch"
        )
    from latency_model.shapes import ConvShape
    from profiler.gpu.tensorrt_build import conv_engine

    parsed = ConvShape.parse(shape)
    engine = conv_engine(
        parsed,
        copies,
        source=source,
        compute_capability=compute_capability,
        optimisation_level=level,
        flavour=flavour,
    )
    data, fusion = _describe(parsed, engine)
    if json:
        console.print_json(data)
    else:
        _show(data, fusion)


def _describe(shape: ConvShape, engine: Engine) -> tuple[dict[str, Any], Fusion]:
    import dataclasses

    from profiler.gpu.tensorrt_device import engine_layers
    from profiler.gpu.tensorrt_layers import fused_pattern, merged, reformats

    layers = engine.layers or engine_layers(engine.flavour, engine.plan)
    fusion = fused_pattern(layers, shape)
    data = {
        "shape": shape.text,
        "runtime": engine.flavour,
        "version": engine.version,
        "compute_capability": engine.compute_capability,
        "fused": fusion.fused,
        "fused_pattern": fusion.pattern,
        "reads": fusion.reads,
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "reformats": [layer.name for layer in reformats(layers)],
        "merged": [layer.name for layer in merged(layers)],
        "engine_bytes": len(engine.plan),
        "build_seconds": round(engine.seconds, 4),
        "warnings": list(engine.warnings),
    }
    return data, fusion


def _show(data: dict[str, Any], fusion: Fusion) -> None:
    from rich.table import Table

    target = f" for compute capability {data['compute_capability']}" if data["compute_capability"] else ""
    console.out.print(f"{data['shape']}: {data['runtime']} {data['version']}{target}", highlight=False)
    view = Table("layer", "kind", "executes", "writes", box=None)
    for layer in data["layers"]:
        note = " (moves data)" if layer["name"] in data["reformats"] else ""
        view.add_row(
            layer["name"], layer["kind"] + note, " ".join(layer["operators"]), ", ".join(layer["formats"])
        )
    console.out.print(view)
    console.out.print(
        "fused: one layer executes all of it"
        if fusion.fused
        else f"not fused: {len(fusion.layers)} layers, the convolution's own executes {fusion.pattern}",
        highlight=False,
    )
    if data["merged"]:
        console.out.print(f"merged copies: {', '.join(data['merged'])}", highlight=False)
    console.out.print(
        f"{data['engine_bytes']} bytes, built in {data['build_seconds']:.2f} s", highlight=False
    )
