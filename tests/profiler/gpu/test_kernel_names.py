import collections
import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from profiler.gpu.kernel_names import BIAS, BOUNDARY, MARKER, RELU

PATTERNS = {"marker": MARKER, "boundary": BOUNDARY, "bias": BIAS, "relu": RELU}
SAMPLE = json.loads(Path(__file__).with_name("kernel_names.json").read_text(encoding="utf-8"))
NEG = SAMPLE["marker"][0]
SHARED = next(
    (
        parent / "shared"
        for parent in Path(__file__).resolve().parents
        if (parent / "shared" / "data").is_dir()
    ),
    Path("shared"),
)
PROBE = SHARED / "data" / "h100_probe"
needs_probe = pytest.mark.skipif(not PROBE.is_dir(), reason="../shared/data/h100_probe is not here")


def kinds(name):
    return [kind for kind, pattern in PATTERNS.items() if pattern.search(name)]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SAMPLE for name in SAMPLE[kind]])
def test_each_kernel_has_one_kind(kind, name):
    assert kinds(name) == ([] if kind == "other" else [kind])


@pytest.mark.shared
@needs_probe
def test_real_networks_have_a_bias_kernel_per_convolution_and_one_boundary():
    spec = importlib.util.spec_from_file_location("build_network", SHARED / "tools" / "build_network.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    networks = json.loads(gzip.decompress((PROBE / "networks.json.gz").read_bytes()))
    specs = [network for network in networks if network["kind"] == "spec"]
    for network in specs:
        spec = network["spec"] | {"batch": 1}
        ops = collections.Counter(node.op_type for node in builder.build(spec).graph.node)
        names = [name for name, _ in network["trace"]]
        found = collections.Counter(kind for name in names for kind in kinds(name))
        assert (found["bias"], found["relu"], found["marker"]) == (ops["Conv"], ops["Relu"], 0)
        # In NHWC the only transpose of a network that ends in a pooling is that of its input.
        assert [index for index, name in enumerate(names) if BOUNDARY.search(name)] == [0]
    assert len(specs) > 30


@pytest.mark.shared
@needs_probe
def test_real_rows_can_be_told_apart_in_one_trace():
    import pandas as pd

    rows = pd.read_parquet(PROBE / "rows.parquet").sample(500, random_state=0)
    trace = []
    for row in rows.itertuples():
        names = row.conv_kernel_names.split(";")
        trace += [(NEG, 2.0), (SAMPLE["boundary"][0], row.transpose_in_us)]
        trace += [(name, row.conv_us / len(names)) for name in names]
        trace += [(SAMPLE["bias"][0], row.bias_us), (SAMPLE["relu"][0], row.relu_us)]
        trace += [(SAMPLE["boundary"][1], row.transpose_out_us)]
    parts = []
    for name, duration in trace:
        if MARKER.search(name):
            parts.append(0.0)
        elif not BOUNDARY.search(name):
            parts[-1] += duration
    np.testing.assert_allclose(parts, rows.conv_us + rows.bias_us + rows.relu_us)
