import gzip
import json
from pathlib import Path

import pytest

from latency_model.networks import align, classify, kernels_of, network_of_spec, read_networks
from latency_model.networks.kernels import Kernel

from .conftest import NAMES

SHARED = Path(__file__).parents[4] / "shared" / "data" / "h100_probe" / "networks.json.gz"
PAD = "void nhwcAddPaddingKernel<__half, __half, float, true, (cudn"
SPEC = {
    "family": "resnet", "block": "basic", "stem": 8, "stream": [12], "inner": [[[6]]],
    "input": 64, "batch": 2, "precision": "fp16", "classes": 10,
}  # fmt: skip


def traced(kernels):
    return [(NAMES[kernel.kind], float(place + 1)) for place, kernel in enumerate(kernels)]


def test_names_are_told_apart():
    same = {"image_transpose": "transpose", "conv": "math", "gemm": "math", "mean": "average"}
    for kind, name in NAMES.items():
        assert classify(name) == same.get(kind, kind)
    assert classify(PAD) == "helper"
    assert classify("void cublasLt::splitKreduce_kernel<32, 16") == "after"
    assert classify("something_new") == "unknown"


def test_a_trace_of_the_expected_kernels():
    kernels = kernels_of(network_of_spec(SPEC))
    found = align(kernels, traced(kernels))
    assert [t.kernel for t in found] == list(kernels)
    assert [t.latency_us for t in found] == [place + 1 for place in range(len(kernels))]


def test_helpers_belong_to_their_convolution():
    kernels = kernels_of(network_of_spec(SPEC))
    trace = traced(kernels)
    trace[1:2] = [(PAD, 1.0), trace[1], (PAD, 0.5)]
    found = align(kernels, trace)
    assert (found[1].latency_us, found[1].launches) == (3.5, 3)
    assert [t.latency_us for t in found[2:]] == [us for _, us in trace[4:]]


def test_an_addition_may_run_after_a_later_convolution():
    kinds = ("conv", "bias", "binary", "unary", "conv", "bias", "conv", "bias", "unary")
    kernels = [Kernel(kind, f"k{place}", 1, 1) for place, kind in enumerate(kinds)]
    order = (0, 1, 4, 5, 6, 7, 8, 2, 3)
    trace = [(NAMES[kinds[place]], float(place)) for place in order]
    assert [t.latency_us for t in align(kernels, trace)] == list(range(9))


@pytest.mark.parametrize("change", ["lost", "more", "other", "unknown"])
def test_another_trace_is_not_forced(change):
    kernels = kernels_of(network_of_spec(SPEC))
    trace = traced(kernels)
    if change == "lost":
        del trace[2]
    elif change == "more":
        trace.insert(3, trace[2])
    else:
        trace[2] = ("something_new" if change == "unknown" else NAMES["max_pool"], 1.0)
    assert align(kernels, trace) is None


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_file(), reason="no ../shared/data/h100_probe")
def test_measured_networks_ran_the_expected_kernels(tmp_path):
    entries = json.loads(gzip.decompress(SHARED.read_bytes()))
    # Models of a library take seconds to trace; the benchmark does all.
    quick = [e for e in entries if "family" in e["spec"] or e["name"] == "alexnet"]
    (tmp_path / "some.json").write_text(json.dumps(quick))
    networks = read_networks(tmp_path / "some.json")
    assert [n.name for n in networks if align(kernels_of(n.network), n.trace) is None] == []
