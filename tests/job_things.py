"""What tests of jobs share: environments, configurations, rows whose values say when they were measured."""

from latency_model import LatencyTable
from latency_model.environment import Environment
from latency_model.measurement import Measurement
from latency_model.ops import OpShape, parse_config
from latency_model.service.store.jobs import Offer

WIDE = Environment("NVIDIA H100 80GB", "cuda", "tensorrt", "10", options=(("builds", "3"),))
NARROW = Environment("Some CPU", "cpu", "onnxruntime", "1")
OFFERS = {"wide": Offer(WIDE, ("fp32", "fp16"), False), "narrow": Offer(NARROW, ("fp32",), True)}
CONVS = tuple(f"1x8x8x8 ->{8 * n} k3 s1 p1 g1 conv fp32 nchw" for n in range(1, 5))
HALF = "1x8x8x8 ->8 k3 s1 p1 g1 conv fp16 nchw"
OP = "op Add 1x8x8x8 1x8x8x8 fp32 nchw"


def measured(value=1.0, at="2026-01-01T00:00:00+00:00"):
    return Measurement(value, value, value, value, value, value, value, value, 1, "fake", measured_at=at)


def table(environment, texts=(), failures=None, networks=(), **given):
    rows = {parse_config(text): measured(**given) for text in texts}
    return LatencyTable(
        environment,
        {config: row for config, row in rows.items() if not isinstance(config, OpShape)},
        tuple(networks),
        {parse_config(text): why for text, why in (failures or {}).items()},
        {config: row for config, row in rows.items() if isinstance(config, OpShape)},
    )
