"""The commands `gharial estimate` and `gharial explain`."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from latency_model import console
from latency_model.errors import InputError
from latency_model.served import OfEnvironment, OfServer, no_file, served_estimate, served_model
from latency_model.shapes import PRECISIONS
from latency_model.shipped import find_table
from latency_model.table import LatencyTable
from latency_model.tables_cli import AsJson

if TYPE_CHECKING:
    from latency_model.estimate import Estimate
    from latency_model.model import LatencyModel
    from latency_model.zoo import LoadedModel

__all__ = ["estimate", "explain"]

_TENSORRT = "tensorrt"  # in the name of every runtime that builds engines
_MODEL_HELP = "A name like resnet20, torchvision:NAME, timm:NAME, package.module:callable, or a file.onnx."
OfTable = Annotated[
    str | None,
    typer.Option(
        "--table",
        metavar="TABLE",
        help="Use this table: a file, or a name that gharial tables list shows.",
    ),
]
OfModel = Annotated[
    Path | None, typer.Option("--model", metavar="MODEL_DIR", help="Use what gharial fit wrote.")
]
Batch = Annotated[
    int | None,
    typer.Option("--batch", min=1, help="Images at once.", show_default="1, or what an ONNX file fixes"),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help=", ".join(PRECISIONS),
        show_default="the table's if it has one only, of an ONNX file its own",
    ),
]
Confidence = Annotated[
    float, typer.Option("--confidence", help="How often the interval shall hold, like 0.9.")
]
Family = Annotated[
    str | None,
    typer.Option(
        "--family",
        metavar="NAME",
        help="Give the interval of this family, of which networks were measured, like resnet-basic.",
        show_default="that of a family of which none was",
    ),
]
Engine = Annotated[
    Path | None,
    typer.Option(
        "--engine",
        metavar="LAYERS",
        help="With NET.onnx and a table of TensorRT: the layers of its engine, from gharial inspect NET.onnx --json "
        "or trtexec --exportLayerInfo; convolutions are then fused as there.",
    ),
]


def estimate(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help=_MODEL_HELP)] = None,
    table: OfTable = None,
    fitted: OfModel = None,
    server: OfServer = None,
    environment: OfEnvironment = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="ROWS",
            help="Instead of a network: a .parquet or .csv file of convolutions, one a row "
            "(batch, in_channels, out_channels, height, kernel_size, ...).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PREDICTIONS", help="With --rows: where the predictions go, .parquet or .csv."),
    ] = None,
    batch: Batch = None,
    precision: Precision = None,
    confidence: Confidence = 0.9,
    family: Family = None,
    engine: Engine = None,
    json: AsJson = False,
) -> None:
    """Estimate the latency of a network, or of each row of a file, with an interval."""
    from latency_model.estimate import explain as explained

    if (model is None) == (rows is None):
        raise InputError("estimate needs a network or a file of rows; give MODEL or --rows ROWS, one of them")
    no_file(server, environment, table, fitted)
    if rows is not None:
        if family is not None or engine is not None:
            raise InputError("--family and --engine are for a network; leave them out with --rows")
        latency_model = _latency_model(table, fitted, server, environment)
        _estimate_rows(latency_model, rows, out, confidence=confidence, json=json)
        return
    if out is not None:
        raise InputError("--out is where predictions of --rows go; for one network use --json")
    assert model is not None
    if server is not None and engine is None:
        result = served_estimate(
            server,
            model,
            environment,
            batch=batch,
            precision=precision,
            confidence=confidence,
            family=family,
        )
    else:
        latency_model = _latency_model(table, fitted, server, environment)
        result = _estimate(
            latency_model, model, batch, precision, confidence=confidence, family=family, engine=engine
        )
    if json:
        console.print_json({**_about(model, result), **result.to_json()})
        return
    _print_sites(result)
    console.out.print(explained(result), highlight=False, markup=False, soft_wrap=True)


def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=_MODEL_HELP)],
    table: OfTable = None,
    fitted: OfModel = None,
    server: OfServer = None,
    environment: OfEnvironment = None,
    site: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Only this convolution or operator, with the rows around it."),
    ] = None,
    batch: Batch = None,
    precision: Precision = None,
    confidence: Confidence = 0.9,
    family: Family = None,
    engine: Engine = None,
    json: AsJson = False,
) -> None:
    """Say where an estimate comes from: which rows, which kernels, where they switch, which correction."""
    from latency_model.explain import explanation

    no_file(server, environment, table, fitted)
    latency_model = _latency_model(table, fitted, server, environment)
    result = _estimate(
        latency_model, model, batch, precision, confidence=confidence, family=family, engine=engine
    )
    found = explanation(latency_model, result, site=site)
    if json:
        console.print_json({**_about(model, result), **found.to_json()})
        return
    console.out.print(found.text, highlight=False, markup=False, soft_wrap=True)


def _estimate(
    latency_model: LatencyModel,
    model: str,
    batch: int | None,
    precision: str | None,
    *,
    confidence: float,
    family: str | None,
    engine: Path | None,
) -> Estimate:
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    loaded = load_model(model)
    if engine is not None:
        return _with_engine(
            latency_model, loaded, engine, batch, precision, confidence=confidence, family=family
        )
    if precision is None and loaded.onnx_path is None:
        precision = _precision(latency_model)
    network = harvest(loaded, batch=batch, precision=precision, layout=_layout(latency_model))
    found = latency_model.estimate(network, confidence=confidence, family=family)
    if _TENSORRT not in latency_model.table.environment.runtime:
        return found
    return replace(
        found, flags=(*found.flags, "fused as ONNX Runtime does it; --engine takes what TensorRT fuses")
    )


def _with_engine(
    latency_model: LatencyModel,
    loaded: LoadedModel,
    engine: Path,
    batch: int | None,
    precision: str | None,
    *,
    confidence: float,
    family: str | None,
) -> Estimate:
    from latency_model.harvest.engine_file import harvest_engine

    runtime = latency_model.table.environment.runtime
    if loaded.onnx_path is None:
        raise InputError(
            f"--engine is for the ONNX file that the engine was built from, not for {loaded.name}"
        )
    if _TENSORRT not in runtime:
        raise InputError(f"--engine is for tables of TensorRT, and this one is of {runtime}; leave it out")
    cost = harvest_engine(
        loaded.onnx_path, engine, batch=batch, precision=precision, layout=_layout(latency_model)
    )
    found = latency_model.estimate(cost.network, confidence=confidence, family=family)
    return replace(found, flags=(*found.flags, *cost.notes))


def _estimate_rows(
    model: LatencyModel, rows: Path, out: Path | None, *, confidence: float, json: bool
) -> None:
    from latency_model.rows import read_rows, write_predictions

    if out is None:
        raise InputError("predictions of rows are written to a file; give --out PREDICTIONS.csv or .parquet")
    asked = read_rows(rows, latency="optional", on_bad="drop", defaults=model.defaults)
    predicted, low, high, source = model.predict(asked.columns, confidence=confidence)
    write_predictions(out, rows=asked, predicted_us=predicted, low_us=low, high_us=high, source=source)
    notes = list(asked.notes)
    device = model.table.environment.device
    if asked.device is not None and asked.device != device:
        notes.append(
            f"the rows are of {asked.device}, and the model is of {device}: it says what {device} takes"
        )
    counts = Counter(source)
    said: dict[str, Any] = {
        "out": str(out),
        "rows": asked.file_rows,
        "convolutions": len(asked),
        "confidence": confidence,
        "sources": dict(sorted(counts.items())),
        "notes": notes,
    }
    if json:
        console.print_json(said)
        return
    kinds = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    console.out.print(
        f"{asked.file_rows} rows in {out}: {kinds}; intervals at {confidence:.0%}",
        highlight=False,
        soft_wrap=True,
    )
    for note in notes:
        console.out.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)


def _latency_model(
    table: str | None, fitted: Path | None, server: str | None, environment: str | None
) -> LatencyModel:
    from latency_model.model import LatencyModel

    if server is not None:
        return served_model(server, environment)
    if table is not None and fitted is not None:
        raise InputError("an estimate rests on one source; give --table TABLE or --model MODEL_DIR, not both")
    if fitted is not None:
        return LatencyModel.load(fitted)
    if table is None:
        raise InputError(
            "an estimate needs measurements; give --table TABLE, which gharial profile makes and of which "
            "gharial tables list shows those that ship, --model MODEL_DIR, which gharial fit makes, or --server URL"
        )
    path = find_table(table)
    return LatencyModel.fit([LatencyTable.load(path)], origin=str(path))


def _precision(model: LatencyModel) -> str:
    found = sorted({shape.precision for shape in model.table})
    if len(found) != 1:
        raise InputError(f"the table has rows of {', '.join(found)}; choose with --precision")
    return found[0]


def _layout(model: LatencyModel) -> str:
    found = Counter(shape.layout for shape in model.table)
    return found.most_common(1)[0][0]


def _about(model: str, result: Estimate) -> dict[str, Any]:
    shapes = [site.shape for site in result.sites if site.shape is not None]
    precisions = ", ".join(sorted({shape.precision for shape in shapes}))
    return {"model": model, "batch": shapes[0].batch, "precision": precisions}


def _print_sites(result: Estimate) -> None:
    grid = Table("site", "convolution", "latency (us)", "share", "source")
    for site in result.sites:
        share = f"{site.latency_us / result.raw_sum_us:.1%}"
        grid.add_row(site.name, site.what, f"{site.latency_us:.2f}", share, site.source)
    console.out.print(grid)
