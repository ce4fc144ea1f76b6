import gzip
import json

import pytest

from latency_model.errors import InputError
from latency_model.networks import family_of, read_networks

SPEC = {"family": "vgg", "widths": [[4]], "input": 8, "batch": 2, "precision": "fp16"}
ENTRY = {
    "name": "tiny",
    "spec": SPEC,
    "e2e_us": 10.0,
    "p10_us": 9.0,
    "p90_us": 12.0,
    "trace": [["a", 1.5], ["b", 2]],
}


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_plain_or_compressed(tmp_path, pack):
    path = tmp_path / "networks.json"
    path.write_bytes(pack(json.dumps([ENTRY, {"spec": SPEC, "e2e_us": 3}]).encode()))
    first, second = read_networks(path)
    assert (first.name, first.family, first.batch) == ("tiny", "vgg", 2)
    assert (first.measured_us, first.p10_us, first.p90_us) == (10, 9, 12)
    assert first.trace == (("a", 1.5), ("b", 2.0))
    assert first.kernel_sum_us == 3.5
    assert (second.name, second.measured_us, second.p10_us, second.p90_us) == ("vgg", 3, 3, 3)
    assert second.trace == ()
    assert second.kernel_sum_us == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"not json", "as JSON"),
        (b"\x1f\x8bbroken", "as JSON"),
        (b"{}", "not a list"),
        (b"[]", "not a list"),
        (b"[3]", "network 1 has no description"),
        ([ENTRY, {"e2e_us": 3}], "network 2 has no description"),
        ([ENTRY | {"e2e_us": 0}], r"network 1 \(tiny\) has e2e_us 0 "),
        ([ENTRY | {"e2e_us": None}], "has e2e_us None"),
        ([ENTRY | {"e2e_us": True}], "has e2e_us True"),
        ([ENTRY | {"e2e_us": float("nan")}], "has e2e_us nan"),
        ([ENTRY | {"p10_us": 13.0}], "above its p90_us"),
        ([ENTRY | {"trace": [["a"]]}], "not a list of"),
        ([ENTRY | {"trace": 3}], "not a list of"),
        ([ENTRY | {"trace": [["a", -1.0]]}], "not a positive number"),
        ([ENTRY | {"spec": SPEC | {"family": "rnn"}}], r"network 1 \(tiny\): unknown network family 'rnn'"),
    ],
)
def test_malformed_files_are_named(tmp_path, content, says):
    path = tmp_path / "networks.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(InputError, match=says) as caught:
        read_networks(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_networks(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("spec", "family"),
    [
        ({"model": "torchvision:wide_resnet50_2"}, "wide_resnet"),
        ({"model": "torchvision:vgg13_bn"}, "vgg"),
        ({"model": "torchvision:alexnet"}, "alexnet"),
        ({"model": "torchvision:densenet121"}, "densenet"),
        ({"model": "torchvision:mobilenet_v2"}, "mobilenet_v2"),
        ({"model": "torchvision:shufflenet_v2_x1_0"}, "shufflenet_v2"),
        ({"model": "torchvision:resnext50_32x4d"}, "resnext"),
        ({"model": "torchvision:efficientnet_b0"}, "efficientnet"),
        ({"model": "torchvision:mobilenet_v3_small"}, "mobilenet_v3"),
        ({"family": "resnet", "block": "basic"}, "resnet-basic"),
        ({"family": "mobilenet"}, "mobilenet_v2"),
        ({"model": "torchvision:regnet_y_400mf"}, "regnet"),
        ({"model": "torchvision:resnet18"}, "resnet-basic"),
        ({"model": "torchvision:resnet101"}, "resnet-bottleneck"),
        ({"model": "package.models:Net2"}, "net"),
    ],
)
def test_families(spec, family):
    assert family_of(spec) == family
