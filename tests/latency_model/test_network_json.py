import json

import pytest

from latency_model.errors import InputError
from latency_model.harvest import harvest
from latency_model.network_json import network_from_json, network_to_json
from latency_model.zoo import load_model


@pytest.fixture(scope="module")
def network():
    return harvest(load_model("resnet20"))


def test_a_network_comes_back_as_it_was(network):
    assert network_from_json(json.loads(json.dumps(network_to_json(network)))) == network


def test_depthwise_and_concatenations_come_back():
    for name in ("torchvision:mobilenet_v2", "torchvision:squeezenet1_1"):
        found = harvest(load_model(name))
        assert network_from_json(json.loads(json.dumps(network_to_json(found)))) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("sites"),
        lambda data: data.update(format_version=2),
        lambda data: data.update(format_version="1"),
        lambda data: data["sites"].append({"name": "x"}),
        lambda data: data["sites"][0].update(shape="1x1x1"),
        lambda data: data["sites"][0].update(
            shape=data["sites"][0]["shape"].replace("16x3x3", f"{10**12}x3x3")
        ),
        lambda data: data["sites"][0].update(shape="1x3x32x99999999999 ->16 k3 s1 p1 g1 conv fp32 nchw"),
        lambda data: data["sites"][0].update(inputs=[3]),
        lambda data: data["sites"][0].update(inputs=[3, [["nowhere", 1]]]),
        lambda data: data["sites"][0].update(inputs=[3.5, []]),
        lambda data: data["sites"][0].update(name=7),
        lambda data: data.update(groups=[]),
        lambda data: data.update(groups={"a": -1}),
        lambda data: data["ops"][0].update(axes=[[9, 0, [1, []], "in"]]),
        lambda data: data["ops"][0].update(axes=[[0, 9, [1, []], "in"]]),
        lambda data: data["ops"][0].update(axes=[[0, 0, [1, []], "up"]]),
        lambda data: data["ops"][0].update(axes=3),
        lambda data: data.update(sites="none"),
    ],
)
def test_anything_else_is_refused(network, change):
    data = json.loads(json.dumps(network_to_json(network)))
    change(data)
    if data == network_to_json(network):
        pytest.skip("the change does not apply to this network")
    with pytest.raises(InputError, match="not a harvested network"):
        network_from_json(data)


@pytest.mark.parametrize("data", [None, 3, [], "x", {}, {"format_version": 1}])
def test_what_is_no_network_at_all_is_refused(data):
    with pytest.raises(InputError, match="not a harvested network"):
        network_from_json(data)
