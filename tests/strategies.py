"""Hypothesis strategies for the core types."""

from hypothesis import strategies as st

from latency_model import ConvShape, Environment, LatencyTable, Measurement, NetworkRow
from latency_model.measurement import METHODS
from latency_model.shapes import PATTERNS, PRECISIONS

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\x00"), max_size=12)
names = st.text("abcXYZ019._- µ", min_size=1, max_size=10)


@st.composite
def conv_shapes(draw):
    groups = draw(st.sampled_from([1, 1, 1, 2, 8]))
    kernel = draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    dilation = draw(st.sampled_from([(1, 1), (2, 2), (1, 3)]))
    sizes = [dilation[i] * (kernel[i] - 1) + 1 + draw(st.integers(0, 60)) for i in (0, 1)]
    return ConvShape(
        batch=draw(st.integers(1, 256)),
        in_channels=groups * draw(st.integers(1, 300)),
        height=sizes[0],
        width=sizes[1],
        out_channels=groups * draw(st.integers(1, 300)),
        kernel=kernel,
        stride=draw(st.tuples(st.integers(1, 4), st.integers(1, 4))),
        padding=draw(st.tuples(*[st.integers(0, 3)] * 4)),
        dilation=dilation,
        groups=groups,
        pattern=draw(st.sampled_from(PATTERNS)),
        precision=draw(st.sampled_from(PRECISIONS)),
        layout=draw(st.sampled_from(["nchw", "nhwc"])),
    )


environments = st.builds(
    Environment,
    device=names,
    kind=st.sampled_from(["cpu", "cuda"]),
    runtime=names,
    runtime_version=text,
    driver=text,
    options=st.dictionaries(names, text, max_size=3).map(lambda d: tuple(d.items())),
)


@st.composite
def measurements(draw):
    median = draw(st.floats(1e-3, 1e7))
    spread = sorted(draw(st.lists(st.floats(0, 1e7), min_size=5, max_size=5)))
    return Measurement(
        latency_us=median,
        low_us=median * draw(st.floats(0.5, 1)),
        high_us=median * draw(st.floats(1, 2)),
        p5_us=spread[1],
        p25_us=spread[2],
        p75_us=spread[3],
        p95_us=spread[4],
        min_us=spread[0],
        samples=draw(st.integers(1, 10_000)),
        method=draw(st.sampled_from(METHODS)),
        kernels=tuple(draw(st.lists(st.tuples(names, st.floats(0, 1)), max_size=3))),
        sm_clock_mhz=draw(st.none() | st.floats(1, 3000)),
        flags=tuple(draw(st.lists(names, max_size=2))),
        run_id=draw(text),
        measured_at=draw(text),
    )


@st.composite
def tables(draw):
    rows = draw(st.dictionaries(conv_shapes(), measurements(), max_size=5))
    failures = draw(st.dictionaries(conv_shapes().filter(lambda s: s not in rows), names, max_size=2))
    shapes = st.lists(conv_shapes(), max_size=3).map(tuple)
    networks = draw(st.lists(st.builds(NetworkRow, names, shapes, measurements()), max_size=2))
    return LatencyTable(draw(environments), rows, tuple(networks), failures)
