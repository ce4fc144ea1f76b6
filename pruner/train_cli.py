"""The command `gharial train`: the weights that pruning starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["train"]


def train(
    model: Annotated[
        str,
        typer.Argument(
            help="resnet20, resnet56, resnet110, vgg16_cifar, torchvision:NAME, timm:NAME "
            "or package.module:callable."
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Folder with train.parquet and test.parquet, a CIFAR folder, train/CLASS/ and val/CLASS/ "
            "image folders; or the name digits."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for weights.safetensors and history.json.")],
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of the whole run.")] = 200,
    lr: Annotated[float, typer.Option(help="Peak learning rate; warm-up, then half a cosine.")] = 0.1,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = 5e-4,
    label_smoothing: Annotated[float, typer.Option(help="Of the cross entropy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Same seed, same weights on a CPU.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Start from these weights (.safetensors) instead of random ones.")
    ] = None,
    validation: Annotated[
        float, typer.Option(help="Part of the training images held out and evaluated after each epoch.")
    ] = 0.1,
    image_size: Annotated[int | None, typer.Option(help="Height and width to bring images to.")] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that decode image files; 0 for threads.")
    ] = 0,
    ema: Annotated[
        float | None, typer.Option(help="Keep a moving average of the weights with this decay, e.g. 0.999.")
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Compute in 16 bits where that is safe.")] = False,
    amp_type: Annotated[str, typer.Option(help="With --amp: bf16, or fp16 with a loss scale.")] = "bf16",
    clip_norm: Annotated[
        float | None, typer.Option(help="Scale gradients down to this norm, all together.")
    ] = None,
    channels_last: Annotated[
        bool, typer.Option(help="Keep weights and activations in channels-last order.")
    ] = True,
    device: Annotated[
        str, typer.Option(help="Where training runs: auto (a GPU if there is one), cpu, cuda or cuda:N.")
    ] = "auto",
    log_dir: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard: loss, accuracies, learning rate.")
    ] = None,
    limit_batches: Annotated[
        int | None, typer.Option(min=1, help="End each epoch after so many steps, for a quick try.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, no progress.")] = False,
) -> None:
    """Train a network and write its weights; interrupted, the same command goes on after the last epoch.

    Validation images are cut out of the training set; the test set is read once, at the end. With torchrun
    --nproc-per-node N -m gharial instead of gharial, N processes share each batch and train the same network.

    Example: gharial train resnet20 --data cifar10 --epochs 30 --lr 0.1 --amp --out runs/resnet20
    """
    import torch

    from latency_model.console import err, print_json, progress
    from latency_model.console import out as console
    from latency_model.errors import DataError, ModelError
    from latency_model.files import write_json
    from latency_model.zoo import load_model, load_weights
    from pruner.data import load_data
    from pruner.data.seeds import mix_seed
    from pruner.training import EpochRecord, evaluate, fit
    from pruner.training.device import choose, require_run
    from pruner.training.fabric import open_processes
    from pruner.training.mixed import half_type
    from pruner.training.state import save_tensors
    from pruner.training.tensorboard import TensorBoard

    half = amp_type if amp else "off"
    half_type(half)
    chosen = choose(device)
    processes = open_processes(chosen.type)
    place = processes.place(chosen)
    quiet = as_json or not processes.first
    logs = [TensorBoard(log_dir)] if log_dir is not None and processes.first else []

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(mix_seed("init", seed))
        loaded = load_model(model)
    if loaded.module is None:
        raise ModelError(f"{model} cannot be trained; give a PyTorch model, not a file of another kind")
    if weights is not None:
        load_weights(loaded.module, weights)
    network = loaded.module
    splits = load_data(
        data, validation=validation, seed=seed, image_size=image_size, quiet=quiet, workers=workers
    )
    try:
        with torch.inference_mode():
            logits = network.eval()(torch.zeros(1, *splits.input_shape))
    except RuntimeError as error:
        size = "x".join(map(str, splits.input_shape))
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{loaded.name} cannot run on the {size} images of {data} ({reason}); "
            "give other data or another --image-size"
        ) from error
    classes = logits.shape[1] if isinstance(logits, torch.Tensor) and logits.ndim == 2 else None
    splits.expect_classes(classes, model=loaded.name)
    require_run(network, splits.input_shape, place, name=loaded.name)
    network.to(place)

    def report(record: EpochRecord) -> None:
        if quiet:
            return
        accuracy = record.validation_accuracy
        told = "" if accuracy is None else f", validation {accuracy:.2f} %"
        err.print(
            f"epoch {record.epoch} of {epochs}: loss {record.loss:.4f}, "
            f"training {record.train_accuracy:.2f} %{told}, {record.images_per_s:,.0f} images/s",
            highlight=False,
        )

    with progress(quiet=quiet) as bar:
        history = fit(
            network,
            splits,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            weight_decay=weight_decay,
            label_smoothing=label_smoothing,
            seed=seed,
            ema=ema,
            amp=half,
            clip_norm=clip_norm,
            channels_last=channels_last,
            state_dir=out / "state",
            callbacks=logs,
            progress=bar,
            description=f"train {loaded.name}",
            limit_batches=limit_batches,
            on_epoch=report,
            processes=processes,
        )
    target = out / "weights.safetensors"
    about = {
        "model": loaded.name,
        "data": str(data),
        "epochs": str(epochs),
        "lr": str(lr),
        "batch_size": str(batch_size),
        "weight_decay": str(weight_decay),
        "seed": str(seed),
        "mean": ", ".join(f"{value:.6g}" for value in splits.mean),
        "std": ", ".join(f"{value:.6g}" for value in splits.std),
    }
    # Before the test set is opened: a missing one must not cost the training.
    if processes.first:
        save_tensors(target, network.state_dict(), about)
    test_accuracy = evaluate(network, splits.test, amp=half, channels_last=channels_last, processes=processes)
    if not processes.first:
        return
    result = {
        "model": loaded.name,
        "data": str(data),
        "epochs": history.to_json(),
        "test_accuracy": test_accuracy,
        "weights": str(target),
    }
    write_json(out / "history.json", result)
    if as_json:
        print_json(result)
        return
    last = history.epochs[-1].validation_accuracy
    told = "" if last is None else f" (validation {last:.2f} %)"
    console.print(
        f"test accuracy {test_accuracy:.2f} %{told}; weights in {target}", highlight=False, soft_wrap=True
    )
