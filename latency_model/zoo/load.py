"""One name for every model: our own, torchvision, timm, ``package.module:callable``, or an ONNX file."""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latency_model.errors import DependencyError, ModelError
from latency_model.zoo.resnet import cifar_resnet, digits_resnet
from latency_model.zoo.vgg import vgg16_cifar

__all__ = ["NAMES", "LoadedModel", "load_model"]

_OWN: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: cifar_resnet(20),
    "resnet56": lambda: cifar_resnet(56),
    "resnet110": lambda: cifar_resnet(110),
    "vgg16_cifar": vgg16_cifar,
    "digits_resnet": digits_resnet,
}
NAMES = tuple(_OWN)
_IMAGENET = (3, 224, 224)
_FORMS = (
    f"{', '.join(NAMES)}, torchvision:NAME, timm:NAME, package.module:callable, or a file ending in .onnx"
)


@dataclass(frozen=True)
class LoadedModel:
    """A model with what must be known to run it: exactly one of ``module`` and ``onnx_path`` is set.

    ``input_shape`` is (channels, height, width) of one image; ``classes`` is None where it cannot be told.
    ``batch`` is the one that an ONNX file was exported with, None where it is free.
    """

    name: str
    module: nn.Module | None
    input_shape: tuple[int, int, int]
    classes: int | None = None
    onnx_path: Path | None = None
    batch: int | None = None


def load_model(name: str, *, seed: int | None = None) -> LoadedModel:
    """Return the model that ``name`` stands for, with random weights, in evaluation mode.

    With ``seed`` the weights depend on it alone and the caller's random state is left as it was; without,
    they follow torch's global generator. Raises ``ModelError`` for what does not exist or cannot be built
    and ``DependencyError`` where an optional package is missing.
    """
    if name.lower().endswith(".onnx"):
        return _onnx(name)
    build, default = _builder(name)
    with nullcontext() if seed is None else torch.random.fork_rng(devices=()):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module = build()
        except Exception as error:
            raise ModelError(
                f"{name} cannot be built: {_first_line(error)}; it must need no arguments"
            ) from error
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{name} returned a {type(module).__name__}, not a torch.nn.Module; return the model"
        )
    return LoadedModel(name, module.eval(), _input_shape(name, module, default), _classes(module))


def _builder(name: str) -> tuple[Callable[[], Any], tuple[int, int, int]]:
    if name in _OWN:
        return _OWN[name], _IMAGENET
    family, colon, rest = name.partition(":")
    if family == "torchvision" and colon:
        return _torchvision(rest), _IMAGENET
    if family == "timm" and colon:
        return _timm(rest), _IMAGENET
    if colon and rest.isidentifier() and all(part.isidentifier() for part in family.split(".")):
        return _callable(family, rest), _IMAGENET
    raise ModelError(f"unknown model {name!r}{_nearest(name, NAMES)}; known are {_FORMS}")


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f", did you mean {' or '.join(close)}?" if close else ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _torchvision(name: str) -> Callable[[], Any]:
    import torchvision

    known = tuple(torchvision.models.list_models(module=torchvision.models))
    if name not in known:
        raise ModelError(
            f"torchvision has no classification model {name!r}{_nearest(name, known)}; "
            "write it like torchvision:resnet50"
        )
    return lambda: torchvision.models.get_model(name, weights=None)


def _timm(name: str) -> Callable[[], Any]:
    try:
        import timm
    except ImportError as error:
        raise DependencyError(
            f"timm:{name} needs the package timm; install it with: pip install timm"
        ) from error
    if not timm.is_model(name):
        known = tuple(timm.list_models())
        raise ModelError(f"timm has no model {name!r}{_nearest(name, known)}; write it like timm:resnet50")

    def build() -> Any:
        module = timm.create_model(name, pretrained=False)
        size = (module.pretrained_cfg or {}).get("input_size", _IMAGENET)
        module.input_shape = tuple(int(value) for value in size)
        return module

    return build


def _callable(module_name: str, attribute: str) -> Callable[[], Any]:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:  # `python -m` looks in the working directory, an installed command does not
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"{module_name}:{attribute} cannot be imported: {_first_line(error)}; known forms are {_FORMS}"
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    function = getattr(module, attribute, None)
    if not callable(function):
        known = tuple(entry for entry in dir(module) if callable(getattr(module, entry)))
        raise ModelError(
            f"{module_name} has no callable {attribute!r}{_nearest(attribute, known)}; "
            f"write it like {module_name}:build"
        )
    return lambda: function()


def _input_shape(name: str, module: nn.Module, default: tuple[int, int, int]) -> tuple[int, int, int]:
    shape = getattr(module, "input_shape", default)
    try:
        channels, height, width = (int(size) for size in shape)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"{name}.input_shape is {shape!r}; it must be (channels, height, width), like (3, 224, 224)"
        ) from error
    if min(channels, height, width) < 1:
        raise ModelError(f"{name}.input_shape is {shape!r}; every size must be positive")
    return channels, height, width


def _classes(module: nn.Module) -> int | None:
    for attribute in ("classes", "num_classes"):
        if isinstance(value := getattr(module, attribute, None), int):
            return value
    linears = [part.out_features for part in module.modules() if isinstance(part, nn.Linear)]
    return linears[-1] if linears else None


def _onnx(name: str) -> LoadedModel:
    from latency_model.harvest.onnx_file import image_sizes, open_onnx

    path = Path(name)
    opened = open_onnx(path)
    sizes = image_sizes(opened)
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        raise ModelError(
            f"{path} must take one image batch of fixed channels, height and width, not {sizes}; "
            "export it with only the batch dynamic"
        )
    outputs = opened.graph.output
    output = [dim.dim_value for dim in outputs[0].type.tensor_type.shape.dim] if outputs else []
    classes = output[1] if len(output) == 2 and output[1] > 0 else None
    return LoadedModel(name, None, (sizes[1], sizes[2], sizes[3]), classes, path, sizes[0] or None)
