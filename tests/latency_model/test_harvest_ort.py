"""The rules of fusion against ONNX Runtime itself: its optimised graph has the patterns that we say."""

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from latency_model.harvest import harvest
from latency_model.zoo import LoadedModel, load_model

ort = pytest.importorskip("onnxruntime")

_NOT_OURS = {"Sigmoid", "HardSigmoid"}  # fused by the runtime, no pattern of a table
FREE = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
BLOCK = 16


def randomise(module):
    """Give norms and biases values: the exporter drops a bias that is all zeros."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        for name in ("running_mean", "bias"):
            tensor = getattr(part, name, None)
            if isinstance(tensor, torch.Tensor):
                tensor.data.normal_(generator=generator)
    return module.eval()


def attribute(node, name):
    return next((entry.s.decode() for entry in node.attribute if entry.name == name), "")


def kernel(node):
    # The convolution that the runtime makes of a batch norm has no such attribute.
    return next((tuple(entry.ints) for entry in node.attribute if entry.name == "kernel_shape"), (1, 1))


def optimised(module, shape, path):
    """Return the (kernel, pattern) of ONNX Runtime's convolutions, and the sizes that its other nodes read."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        program = torch.onnx.export(module, (torch.zeros(1, *shape),), dynamo=True, verbose=False)
    (path / "m.onnx").write_bytes(program.model_proto.SerializeToString())
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(path / "optimised.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path / "optimised.onnx").graph
    sizes = node_inputs(path / "optimised.onnx", shape)
    patterns, others = Counter(), Counter()
    for node in graph.node:
        if node.op_type not in ("Conv", "FusedConv"):
            if node.op_type not in FREE:
                others[node.op_type.removeprefix("Fused"), sizes[node.output[0]]] += 1
            continue
        activation = attribute(node, "activation")
        given = [len(node.input) > place and bool(node.input[place]) for place in (2, 3)]
        parts = [
            "conv",
            "bias" if given[0] else "",
            "add" if given[1] else "",
            "" if activation in _NOT_OURS else activation.lower(),
        ]
        patterns[kernel(node), "+".join(filter(None, parts))] += 1
        others[activation.lower(), ()] += activation in _NOT_OURS
    if not any(attribute(n, "activation") or n.domain.endswith("nchwc") for n in graph.node):
        pytest.skip("this ONNX Runtime does not fuse on this processor")
    return patterns, +others


def node_inputs(path, shape):
    """Return the sizes of the activations that each node of an optimised graph reads, by its first output.

    The runtime itself says them, in the trace of a run: a blocked tensor has whole blocks of channels there.
    """
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    options.profile_file_prefix = str(path.parent / "trace")
    options.log_severity_level = 4
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    opened.run(None, {opened.get_inputs()[0].name: np.zeros((1, *shape), np.float32)})
    events = json.loads(Path(opened.end_profiling()).read_text(encoding="utf-8"))
    read = {
        event["args"]["node_index"]: [
            tuple(size) for entry in event["args"]["input_type_shape"] for size in entry.values()
        ]
        for event in events
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time")
    }
    graph = onnx.load(path).graph
    constants = {entry.name for entry in graph.initializer}
    found = {}
    for index, node in enumerate(graph.node):
        sizes = read.get(str(index), [])
        given = [name for name in node.input if name]
        found[node.output[0]] = tuple(
            size for name, size in zip(given, sizes, strict=False) if name not in constants
        )
    return found


def blocked(size):
    """Return a size with its channels rounded up to whole blocks."""
    return (size[0], -(-size[1] // BLOCK) * BLOCK, *size[2:]) if len(size) == 4 else size


def in_blocks(side):
    """Return counts by operator and sizes with all sizes in whole blocks."""
    found = Counter()
    for (op, sizes), count in side.items():
        found[op, tuple(map(blocked, sizes))] += count
    return found


def ours(network):
    """Return what ``optimised`` returns for the operators of a harvest."""
    found = Counter()
    for site in (*network.ops, *network.reorders):
        found[site.shape.op, site.shape.inputs] += 1
    return found + Counter({(kind, ()): count for kind, count in network.others.items()})


def compare(loaded, path):
    patterns, others = optimised(loaded.module, loaded.input_shape, path)
    network = harvest(loaded, batch=1)
    from_file = harvest(load_model(str(path / "m.onnx")), batch=1)
    assert {(s.name, s.shape) for s in from_file.sites} == {(s.name, s.shape) for s in network.sites}
    assert Counter(s.shape for s in from_file.ops) == Counter(s.shape for s in network.ops)
    assert dict(from_file.others) == dict(network.others)
    norms = [site.shape for site in network.ops if site.shape.op == "BatchNormalization"]
    for norm in norms:  # the runtime makes depthwise convolutions of them
        patterns[(1, 1), "+".join(["conv", "bias", *dict(norm.attributes).values()])] -= 1
    assert Counter((site.shape.kernel, site.shape.pattern) for site in network.sites) == +patterns
    for harvested in (network, from_file):
        found = {key: n for key, n in ours(harvested).items() if key[0] != "BatchNormalization"}
        assert in_blocks(found) == in_blocks(others)


@pytest.mark.parametrize("name", ["resnet20", "digits_resnet"])
def test_our_networks(name, tmp_path):
    loaded = load_model(name, seed=0)
    randomise(loaded.module)
    compare(loaded, tmp_path)


# Not among them: convnext_tiny, around whose linear layers the optimiser moves and cancels transposes, and the
# VGGs and alexnet, whose adaptive pooling the exporter takes apart at this size.
NAMES = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet50", "resnext50_32x4d"),
    *(
        "regnet_x_800mf",
        "regnet_y_400mf",
        "mnasnet1_0",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "densenet121",
    ),
    *("shufflenet_v2_x1_0", "googlenet", "inception_v3", "squeezenet1_1"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_torchvision_networks(name, tmp_path):
    loaded = load_model(f"torchvision:{name}", seed=0)
    randomise(loaded.module)
    size = 75 if name == "inception_v3" else 64
    compare(LoadedModel(name, loaded.module, (3, size, size), 1000), tmp_path)


class Case(nn.Module):
    def __init__(self, wire, channels):
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(3))
        self.p, self.q = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.wire = wire

    def forward(self, x):
        return self.wire(self, torch.relu(self.stem(x)))


def used_twice(net, x):
    y = net.b(x)
    return net.q(torch.relu(y + x) + y)


def projection_first(net, x):
    skip = net.p(x)
    return net.q(torch.relu(net.b(torch.relu(net.a(x))) + skip))


def activation_and_other_reader(net, x):
    y = net.b(x)
    return net.q(torch.relu(y)) + y


def sum_with_two_readers(net, x):
    y = net.b(x) + x
    return torch.relu(y) + net.q(y)


CASES = {
    "identity": lambda n, x: torch.relu(n.b(torch.relu(n.a(x))) + x),
    "identity, other order": lambda n, x: torch.relu(x + n.b(torch.relu(n.a(x)))),
    "projection": lambda n, x: torch.relu(n.b(torch.relu(n.a(x))) + n.p(x)),
    "projection first": projection_first,
    "no activation": lambda n, x: n.q(n.b(torch.relu(n.a(x))) + x),
    "clip after the sum": lambda n, x: n.q(F.relu6(n.b(x) + x)),
    "hardswish": lambda n, x: n.q(F.hardswish(n.b(x))),
    "hardswish after the sum": lambda n, x: n.q(F.hardswish(n.b(x) + x)),
    "hardswish at the end": lambda n, x: F.hardswish(n.b(x)),
    "silu": lambda n, x: n.q(F.silu(n.b(x))),
    "clip": lambda n, x: n.q(F.relu6(n.b(x))),
    "clip from below": lambda n, x: n.q(n.b(x).clamp(min=0.1)),
    "activation before the sum": lambda n, x: n.q(torch.relu(n.b(x)) + x),
    "one side activated": lambda n, x: torch.relu(torch.relu(n.b(x)) + n.a(x)),
    "used twice": used_twice,
    "sum with two readers": sum_with_two_readers,
    "activation and another reader": activation_and_other_reader,
    "itself": lambda n, x: (lambda y: torch.relu(y + y))(n.b(x)),
    "pool": lambda n, x: torch.relu(n.b(x) + F.max_pool2d(x, 3, 1, 1)),
    "a constant": lambda n, x: torch.relu(n.b(x) + 1.5),
    "broadcast": lambda n, x: torch.relu(n.b(x) + x.mean((2, 3), keepdim=True)),
    "three": lambda n, x: torch.relu(n.a(x) + n.b(x) + n.p(x)),
}


@pytest.mark.parametrize("case", CASES)
def test_wiring(case, tmp_path):
    module = randomise(Case(CASES[case], 32))
    # what no case reaches must not count as a site
    compare(LoadedModel(case, module, (32, 8, 8)), tmp_path)


@pytest.mark.parametrize("case", ["identity", "projection", "clip", "hardswish", "broadcast"])
@pytest.mark.parametrize("channels", [20, 12, 8])
def test_wiring_at_other_channel_counts(case, channels, tmp_path):
    compare(LoadedModel(case, randomise(Case(CASES[case], channels)), (channels, 8, 8)), tmp_path)


class Grouped(nn.Module):
    def __init__(self, wire, groups):
        super().__init__()
        self.stem, self.last = (nn.Conv2d(32, 32, 3, 1, 1) for _ in range(2))
        self.a = nn.Conv2d(32, 32, 5, 1, 2, groups=groups)
        self.b = nn.Conv2d(32, 32, 7, 1, 3, groups=groups)
        self.dense = nn.Conv2d(32, 32, 1)
        self.wire = wire

    def forward(self, x):
        return self.last(self.wire(self, torch.relu(self.stem(x))))


GROUPED = {
    "sum": lambda n, x: n.a(x) + x,
    "other order": lambda n, x: torch.relu(x + n.a(x)),
    "clip after the sum": lambda n, x: F.relu6(n.a(x) + x),
    "hardswish": lambda n, x: F.hardswish(n.a(x)) + F.relu6(n.b(x) + x),
    "two": lambda n, x: torch.relu(n.b(x) + n.a(x)),
    "with a dense one": lambda n, x: torch.relu(n.dense(x) + n.a(x)),
    "a dense one second": lambda n, x: torch.relu(n.a(x) + n.dense(x)),
    "broadcast": lambda n, x: torch.relu(n.a(x) + x.mean((2, 3), keepdim=True)),
    "one side activated": lambda n, x: torch.relu(n.a(x)) + x,
}


@pytest.mark.parametrize("groups", [4, 32])
@pytest.mark.parametrize("case", GROUPED)
def test_grouped_and_depthwise(case, groups, tmp_path):
    compare(LoadedModel(case, randomise(Grouped(GROUPED[case], groups)), (32, 8, 8)), tmp_path)


def test_an_addition_to_the_input_image_is_not_fused(tmp_path):
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(32, 32, 3, 1, 1)

        def forward(self, x):
            return torch.relu(self.conv(x) + x)

    compare(LoadedModel("skip", randomise(Skip()), (32, 8, 8)), tmp_path)
