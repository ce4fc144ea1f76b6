"""Commands of the pruner: `gharial prune`, `gharial train`, `gharial demo`, `gharial methods`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from latency_model.console import out as console
from latency_model.console import print_json
from latency_model.errors import InputError
from latency_model.served import OfEnvironment, OfServer, no_file
from pruner.train_cli import train

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_JSON = Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")]


def _command() -> str:
    """Return the command line as typed, for the report: the program by its name, not its place."""
    return shlex.join(["gharial", *sys.argv[1:]])


@app.command(
    epilog="Example: gharial prune resnet20 --weights resnet20.safetensors --data cifar10 --table cpu.parquet "
    "--budget latency=0.7x --out pruned"
)
def prune(
    model: Annotated[
        str, typer.Argument(help="resnet20, torchvision:resnet50, timm:NAME or package.module:callable.")
    ],
    budget: Annotated[
        str,
        typer.Option(
            help="latency=0.7x, latency=1.8ms@95%, flops=0.5x, params=400K; several with commas between them."
        ),
    ],
    data: Annotated[str, typer.Option(help="A folder of Parquet files or images, or 'digits'.")],
    out: Annotated[Path, typer.Option(help="Folder for weights, plan, ONNX file and report.")],
    table: Annotated[
        str | None,
        typer.Option(
            help="Latency table of this device, from gharial profile, or the name of one that ships."
        ),
    ] = None,
    server: OfServer = None,
    environment: OfEnvironment = None,
    weights: Annotated[Path | None, typer.Option(help="Trained weights, safetensors.")] = None,
    method: Annotated[
        str, typer.Option(help="Pruning method; see gharial methods. Or package.module:Class.")
    ] = "gator",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A setting of the method; see gharial methods --json."
        ),
    ] = None,
    weigh: Annotated[
        str,
        typer.Option(
            help="What groups of channels are weighed by: losses, measured on training images, or the method's own "
            "values alone."
        ),
    ] = "losses",
    transfer_from: Annotated[
        Path | None,
        typer.Option(
            help="Take the channels' worth from this run of the same architecture, on other data say; nothing is "
            "learned then."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of a method that learns.")] = 3,
    finetune_epochs: Annotated[int, typer.Option(min=0, help="Epochs of recovery after the cut.")] = 3,
    recovery: Annotated[
        str,
        typer.Option(
            help="finetune what the cut left, taught by the original, or train the architecture from scratch."
        ),
    ] = "finetune",
    compensate: Annotated[
        bool,
        typer.Option(
            "--compensate",
            help="Solve the cut network's weights in closed form before recovery, from 1,024 images.",
        ),
    ] = False,
    batch: Annotated[
        int | None, typer.Option(help="Batch to time with; the table's smallest if not given.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="What the result is exported, predicted and timed in: fp32, fp16 or tf32. fp32 if not given, or the "
            "only one that the table has. Training is not in it: see --amp."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Where training runs: auto (a GPU if there is one), cpu, cuda or cuda:N. What is timed is the "
            "table's device."
        ),
    ] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Batch to train with.")] = 128,
    lr: Annotated[float, typer.Option(help="Learning rate while the method learns.")] = 0.01,
    finetune_lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate of recovery; if not given 0.02, after a method that trains half of --lr, from scratch "
            "0.1."
        ),
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Train in mixed precision.")] = False,
    amp_type: Annotated[
        str, typer.Option(help="Of mixed precision: bf16, or fp16 with a loss scale.")
    ] = "bf16",
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale gradients down to this norm, all together.")
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Recover into a moving average of the weights with this decay.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode image files; 0 for threads.")
    ] = 0,
    log_dir: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard: losses, lambda, open channels per group.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the run that --out holds.")] = False,
    json: _JSON = False,
) -> None:
    """Prune a network until its measured latency meets a budget.

    Stopped at any moment, the same command goes on where it was. With torchrun --nproc-per-node N -m gharial
    instead of gharial, N processes train together.
    """
    from pruner.pipeline import PruneRequest
    from pruner.pipeline import prune as run
    from pruner.report import print_report
    from pruner.served_table import served_name, served_table
    from pruner.training.processes import first_process

    no_file(server, environment, table)
    if server is not None:
        name = served_name(server, environment)
    elif table is not None:
        name = table
    else:
        raise InputError("pruning needs a latency table of this device; give --table TABLE or --server URL")
    request = PruneRequest(
        model=model,
        table=name,
        budget=budget,
        data=data,
        method=method,
        weights=str(weights) if weights else None,
        epochs=epochs,
        finetune_epochs=finetune_epochs,
        batch=batch,
        precision=precision,
        device=device,
        batch_size=batch_size,
        lr=lr,
        finetune_lr=finetune_lr,
        amp=amp_type if amp else False,
        clip_norm=clip_norm,
        ema=ema,
        seed=seed,
        options=tuple(settings or ()),
        weigh=weigh,
        recovery=recovery,
        compensate=compensate,
        transfer_from=str(transfer_from) if transfer_from else None,
    )
    rows = None if server is None else served_table(server, environment, out, restart=restart)
    report = run(
        request, out, command=_command(), restart=restart, log_dir=log_dir, workers=workers, table=rows
    )
    if not first_process():
        return
    if json:
        print_json(report.to_json())
    else:
        print_report(report, console)
        console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)


app.command()(train)


@app.command(epilog="Example: gharial demo --out demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    budget: Annotated[str, typer.Option(help="The budget to prune to.")] = "latency=0.6x",
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away the demo that --out holds.")] = False,
    json: _JSON = False,
) -> None:
    """Profile, fit, prune and prove on this machine's CPU: needs no GPU and no data set, takes minutes.

    Trains a small residual network on scikit-learn's digits, times its convolutions, prunes it to the
    budget with Gator, and times the result.
    """
    from pruner.demo import run_demo
    from pruner.report import print_report

    report = run_demo(out, budget=budget, seed=seed, restart=restart, command=_command())
    if json:
        print_json(report.to_json())
    else:
        print_report(report, console)
        console.print(f"report: {out / 'report.html'}", soft_wrap=True, highlight=False)


@app.command(epilog="Example: gharial methods --json")
def methods(json: _JSON = False) -> None:
    """List the pruning methods."""
    from rich.table import Table

    from pruner.methods import method_names, open_method
    from pruner.methods.options import described

    rows = [
        {
            "name": name,
            "needs_data": method.needs_data,
            "trains": method.trains,
            "summary": summary,
            "settings": described(kind()) if (kind := getattr(type(method), "Config", None)) else {},
            "paper": getattr(method, "paper", ""),
        }
        for name in method_names()
        for method in (open_method(name),)
        for summary in ((type(method).__doc__ or "").splitlines()[0],)
    ]
    if json:
        print_json(rows)
        return
    shown = Table("method", "needs data", "trains", "what it does", "paper")
    for row in rows:
        shown.add_row(
            str(row["name"]),
            "yes" if row["needs_data"] else "no",
            "yes" if row["trains"] else "no",
            str(row["summary"]),
            str(row["paper"]),
        )
    console.print(shown)
