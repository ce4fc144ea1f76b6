"""Building TensorRT engines, from ONNX or from our own network definitions, with or without a device.

Every build is strongly typed, searches anew (no timing cache), keeps to one stream and records its layers in
detail. With TensorRT-RTX it needs no device when a compute capability is named.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from latency_model.errors import InputError, MeasurementError
from latency_model.harvest.engine_layers import LOG_START, EngineLayer, layers_from_log
from latency_model.shapes import ConvShape
from profiler.gpu.tensorrt_module import MessageLog, flavour_of, load_tensorrt, message_log, targets
from profiler.gpu.tensorrt_network import Fill, conv_network
from profiler.graphs import conv_copies

__all__ = ["SOURCES", "Engine", "build_engine", "conv_engine"]

SOURCES = ("network", "onnx")


@dataclass(frozen=True, slots=True)
class Engine:
    """A built engine: the serialised ``plan``, what made it, and its layers as the builder logged them.

    ``layers`` is None where the builder logged none; the engine inspector on a device has them then.
    ``compute_capability`` is empty when TensorRT built for the device that it found.
    """

    plan: bytes = field(repr=False)
    flavour: str
    version: str
    compute_capability: str
    seconds: float
    layers: tuple[EngineLayer, ...] | None
    warnings: tuple[str, ...] = ()


def conv_engine(
    shape: ConvShape,
    copies: int = 1,
    *,
    source: str = "network",
    seed: int = 0,
    compute_capability: str | None = None,
    optimisation_level: int | None = None,
    flavour: str | None = None,
) -> Engine:
    """Return an engine that runs ``copies`` of ``shape``, built from a network definition or from our ONNX.

    The other arguments are those of ``build_engine``.
    """
    if source not in SOURCES:
        raise InputError(f"an engine is built from {' or '.join(SOURCES)}, not from {source!r}")
    trt = load_tensorrt(flavour)
    if source == "onnx":
        graph: bytes | Fill = conv_copies(shape, copies, seed=seed)
    else:
        graph = conv_network(trt, shape, copies, seed=seed)
    return build_engine(
        graph,
        tf32=shape.precision == "tf32",
        compute_capability=compute_capability,
        optimisation_level=optimisation_level,
        flavour=flavour,
        what=str(shape),
    )


def build_engine(
    source: bytes | Fill,
    *,
    tf32: bool = False,
    compute_capability: str | None = None,
    optimisation_level: int | None = None,
    flavour: str | None = None,
    what: str = "the network",
) -> Engine:
    """Return an engine built from an ONNX model or from a function that fills a network definition.

    Args:
        source: the bytes of an ONNX model, or a function of (network, logger), see ``conv_network``.
        tf32: whether 32-bit floats may be multiplied in tf32.
        compute_capability: the target, as ``8.9``; None for that of the current device.
        optimisation_level: how hard the builder tries, 0 to 5; None for its default.
        flavour: ``tensorrt`` or ``tensorrt_rtx``; None for the first that is installed.
        what: what is built, for messages.

    Raises ``InputError`` for a target that cannot be built for, ``MeasurementError`` with TensorRT's reason when
    the parser or the builder refuses.
    """
    trt = load_tensorrt(flavour)
    target = _target(trt, compute_capability)
    logger, log = message_log(trt)
    builder = trt.Builder(logger)
    if builder is None:
        raise MeasurementError(f"TensorRT has no builder here: {log.reason}")
    network = builder.create_network(_strongly_typed(trt))
    config = _config(trt, builder, target=target, tf32=tf32, optimisation_level=optimisation_level)
    # What the source hands over must live until the plan is made.
    alive = (
        _parse(trt, network, logger, log, source, what)
        if isinstance(source, bytes)
        else source(network, logger)
    )
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    del alive
    if plan is None:
        raise MeasurementError(f"TensorRT could not build {what}: {log.reason or 'it gave no reason'}")
    return Engine(
        plan=bytes(plan),
        flavour=flavour_of(trt),
        version=str(trt.__version__),
        compute_capability=target or "",
        seconds=seconds,
        layers=_logged_layers(log),
        warnings=tuple(text for severity, text in log.messages if severity == "WARNING"),
    )


def _logged_layers(log: MessageLog) -> tuple[EngineLayer, ...] | None:
    """Return the layers that the builder logged; None where it logs none, or in another form than we know."""
    try:
        return layers_from_log(log.last(LOG_START))
    except MeasurementError:
        return None


def _strongly_typed(trt: Any) -> int:
    """Return the creation flags: TensorRT 10 must be asked, later ones have nothing else."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    if flag is None and int(str(trt.__version__).partition(".")[0]) < 11 and flavour_of(trt) == "tensorrt":
        raise InputError(
            f"TensorRT {trt.__version__} has no strongly typed networks; install 10.0 or later: "
            "pip install -U tensorrt"
        )
    return 0 if flag is None else 1 << int(flag)


def _config(trt: Any, builder: Any, *, target: str | None, tf32: bool, optimisation_level: int | None) -> Any:
    config = builder.create_builder_config()
    if target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.__members__[f"SM{target.replace('.', '')}"], 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if hasattr(config, "max_aux_streams"):
        config.max_aux_streams = 0
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX can be captured into a CUDA graph only when it allocates nothing itself.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if optimisation_level is not None:
        if not 0 <= optimisation_level <= 5:
            raise InputError(f"TensorRT's optimisation levels are 0 to 5, not {optimisation_level}")
        config.builder_optimization_level = optimisation_level
    return config


def _parse(trt: Any, network: Any, logger: Any, log: MessageLog, model: bytes, what: str) -> Any:
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model):
        return parser, model
    reason = log.reason
    if parser.num_errors:
        error = parser.get_error(0)
        operator = str(getattr(error, "node_operator", str)() or "")
        reason = " ".join(str(error.desc()).split())
        reason = f"operator {operator}: {reason}" if operator else reason
    raise MeasurementError(f"TensorRT cannot read the graph of {what}: {reason or 'it gave no reason'}")


def _target(trt: Any, capability: str | None) -> str | None:
    """Return the compute capability to build for; None when TensorRT takes the device that it finds."""
    known = targets(trt)
    here = _device_capability()
    if capability is None:
        if here is None:
            example = f", one of {', '.join(known)}" if known else ""
            raise InputError(
                f"there is no CUDA device to build for; name a compute capability{example} "
                "(--compute-capability)"
            )
        # A device later than the list is named by nobody, but can build for itself.
        return here if here in known else None
    if known and capability not in known:
        raise InputError(
            f"{flavour_of(trt)} cannot build for compute capability {capability}; known are {', '.join(known)}"
        )
    if not known and capability != here:
        found = f"which has {here}" if here else "and there is none"
        raise InputError(
            f"TensorRT builds only for the device that it finds, {found}; to build for {capability} without it: "
            "pip install tensorrt-rtx"
        )
    return capability if known else None


def _device_capability() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"
