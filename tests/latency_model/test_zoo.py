from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from latency_model.errors import DependencyError, ModelError, WeightsError
from latency_model.zoo import load_model, load_weights

SHARED = Path(__file__).parents[3] / "shared" / "data" / "checkpoints"


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("resnet20", (3, 32, 32), 272_474),
        ("vgg16_cifar", (3, 32, 32), 14_724_042),
        ("digits_resnet", (1, 16, 16), None),
        ("torchvision:resnet18", (3, 224, 224), 11_689_512),
    ],
)
def test_models_run_at_their_input_shape(name, shape, parameters):
    loaded = load_model(name, seed=0)
    assert loaded.input_shape == shape
    assert not loaded.module.training
    if parameters is not None:
        assert sum(p.numel() for p in loaded.module.parameters()) == parameters
    with torch.no_grad():
        assert loaded.module(torch.zeros(2, *shape)).shape == (2, loaded.classes)


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_depth_counts_the_weighted_layers(depth):
    convs = [m for m in load_model(f"resnet{depth}").module.modules() if isinstance(m, nn.Conv2d)]
    assert len([c for c in convs if c.kernel_size == (3, 3)]) + 1 == depth


@pytest.mark.shared
@pytest.mark.parametrize("depth", [20, 56, 110])
def test_trained_checkpoints_load_exactly(depth):
    path = SHARED / f"resnet{depth}_cifar10.safetensors"
    if not path.is_file():
        pytest.skip("needs ../shared/data/checkpoints")
    from safetensors.torch import load_file

    module = load_model(f"resnet{depth}", seed=0).module
    load_weights(module, path)
    own = module.state_dict()
    stored = load_file(path)
    assert {n for n in own if not n.endswith("num_batches_tracked")} == set(stored)
    assert all(torch.equal(own[name], tensor) for name, tensor in stored.items())


def test_a_seed_decides_the_weights_and_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, third = (load_model("digits_resnet", seed=seed).module for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv1.weight, second.conv1.weight)
    assert not torch.equal(first.conv1.weight, third.conv1.weight)
    torch.manual_seed(1)
    assert torch.equal(load_model("digits_resnet").module.conv1.weight, first.conv1.weight)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet2", ["resnet20", "torchvision:NAME", ".onnx"]),
        ("torchvision:resnet5", ["resnet50"]),
        ("timm:resnet5000", ["timm:resnet50"]),
        ("no.such.package:build", ["cannot be imported", "no"]),
        ("latency_model.zoo.resnet:digit_resnet", ["digits_resnet"]),
        ("builtins:dict", ["dict", "torch.nn.Module"]),
        ("nowhere/model.onnx", ["no ONNX file"]),
    ],
)
def test_what_does_not_exist_is_said_with_the_nearest_name(name, words):
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_callers_function_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine_for_zoo.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.LazyLinear(7))\n"
        "    net.input_shape = (2, 8, 8)\n"
        "    return net\n"
        "def plain():\n    return nn.Conv2d(3, 4, 3)\n"
        "def wrong():\n    net = nn.Conv2d(3, 4, 3)\n    net.input_shape = 224\n    return net\n"
        "def needs(argument):\n    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load_model("mine_for_zoo:build").input_shape == (2, 8, 8)
    assert load_model("mine_for_zoo:plain").input_shape == (3, 224, 224)
    with pytest.raises(ModelError, match="input_shape"):
        load_model("mine_for_zoo:wrong")
    with pytest.raises(ModelError, match="no arguments"):
        load_model("mine_for_zoo:needs")


def test_timm_missing_names_the_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(DependencyError, match="pip install timm"):
        load_model("timm:resnet18")


def test_damaged_onnx_file(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"\x08\x07\xff\xff\xff not a model")
    with pytest.raises(ModelError, match="broken"):
        load_model(str(path))


@pytest.fixture
def small():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def _tensors(module):
    return {
        n: torch.randn_like(t) if t.is_floating_point() else t + 3 for n, t in module.state_dict().items()
    }


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("counters", [True, False])
def test_weights_load_exactly(small, tmp_path, prefix, counters):
    tensors = _tensors(small)
    stored = {prefix + n: t for n, t in tensors.items() if counters or "tracked" not in n}
    save_file(stored, tmp_path / "w.safetensors")
    load_weights(small, tmp_path / "w.safetensors")
    own = small.state_dict()
    assert all(torch.equal(own[n], t) for n, t in tensors.items() if prefix + n in stored)


def test_weights_that_do_not_fit_are_named_and_nothing_is_changed(small, tmp_path):
    tensors = _tensors(small)
    del tensors["0.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["1.weight"] = torch.zeros(3)
    save_file(tensors, tmp_path / "w.safetensors")
    before = {n: t.clone() for n, t in small.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(small, tmp_path / "w.safetensors")
    message = str(caught.value)
    assert "missing: 0.bias" in message
    assert "unexpected: extra" in message
    assert "1.weight (file (3,), model (2,))" in message
    assert all(torch.equal(t, before[n]) for n, t in small.state_dict().items())


@pytest.mark.parametrize("content", [b"", b"junk", None])
def test_unreadable_weights(small, tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is None:
        save_file(_tensors(small), path)
        path.write_bytes(path.read_bytes()[:-5])
    else:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        load_weights(small, path)
    with pytest.raises(WeightsError, match="no weights file"):
        load_weights(small, tmp_path / "absent")
