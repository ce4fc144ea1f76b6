"""Surgery: plain modules, everything but the widths kept, blocks replaced by their shortcut."""

import copy
import io

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from latency_model.errors import InputError
from pruner.graph import trace
from pruner.oracle import check
from pruner.plan import Plan
from pruner.surgery import apply, remove

X = torch.randn(2, 3, 32, 32)


@pytest.fixture(scope="module", params=[BasicBlock, Bottleneck])
def resnet(request):
    torch.manual_seed(0)
    model = ResNet(
        request.param, [2, 2, 2, 2], num_classes=10, width_per_group=16 if request.param is Bottleneck else 64
    )
    return model, trace(model, X)


def test_the_original_is_untouched_and_the_result_is_plain(resnet):
    model, graph = resnet
    before = copy.deepcopy(model.state_dict())
    keep = {name: range(0, size, 2) for name, size in graph.sizes().items()}
    pruned = remove(model, graph, keep)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in pruned.modules())
    assert type(pruned) is type(model)
    assert pruned.layer1[0].conv1.out_channels == pruned.layer1[0].conv1.weight.shape[0]
    assert pruned.layer1[0].bn1.num_features == pruned.layer1[0].conv1.out_channels
    copy.deepcopy(pruned)
    torch.export.export(pruned.eval(), (X,), strict=False)
    pruned.train()(X).sum().backward()


def test_every_block_can_go_first_ones_of_a_stage_too(resnet):
    model, graph = resnet
    assert [block.name for block in graph.blocks] == [f"layer{s}.{b}" for s in range(1, 5) for b in range(2)]
    for block in graph.blocks:
        assert check(model, graph, {}, [block.name], inputs=X).ok
        pruned = remove(model, graph, {}, blocks=[block.name])
        kept = pruned.get_submodule(block.name)
        assert sum(isinstance(m, nn.Conv2d) for m in kept.modules()) == len(block.skip)
    keep = {name: range(size // 3, size) for name, size in graph.sizes().items()}
    names = ["layer2.0", "layer2.1", "layer4.0"]
    assert check(model, graph, keep, names, inputs=X).ok
    assert check(model, graph, {}, [block.name for block in graph.blocks], inputs=X).ok


def test_emptying_all_groups_of_a_block_removes_it_and_one_of_several_is_an_error(resnet):
    model, graph = resnet
    block = graph.block("layer3.1")
    empty = {group: [] for group in block.groups}
    pruned = remove(model, graph, empty)
    # Its input is rectified already, so nothing is left to do.
    assert isinstance(pruned.layer3[1], nn.Identity)
    assert check(model, graph, empty, inputs=X).ok
    if len(block.groups) > 1:
        with pytest.raises(InputError, match=r"layer3\.1\.conv1 would lose all its channels"):
            remove(model, graph, {block.groups[0]: []})
    with pytest.raises(InputError, match="would lose all"):
        remove(model, graph, {"layer3.0.conv1": range(1), "conv1": []})


def test_settings_of_layers_are_kept():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=1e-2, momentum=0.3), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    model[0].weight.requires_grad_(False)
    model = model.to(memory_format=torch.channels_last).eval()
    graph = trace(model, torch.randn(2, 3, 8, 8))
    pruned = remove(model.to(torch.float64), graph, {"0": [1, 3, 4, 6, 7]})
    assert (pruned[1].eps, pruned[1].momentum, pruned[1].num_features) == (1e-2, 0.3, 5)
    assert not pruned[0].weight.requires_grad and pruned[3].weight.requires_grad
    assert pruned[0].weight.dtype is torch.float64
    assert pruned[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not pruned.training
    assert torch.equal(pruned[0].weight, model[0].weight[[1, 3, 4, 6, 7]])
    assert torch.equal(pruned[3].weight, model[3].weight[:, [1, 3, 4, 6, 7]])


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
            self.norms = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
            self.norms[1].weight = self.norms[0].weight
            self.head = nn.Conv2d(6, 2, 1)

        def forward(self, x):
            return self.head(self.c(F.relu(self.norms[1](self.b(F.relu(self.norms[0](self.a(x))))))))

    model = Tied()
    graph = trace(model, X)
    assert list(graph.groups) == ["a", "c"]  # the norm ties b to a
    pruned = remove(model, graph, {"a": [0, 5], "c": [1]})
    assert pruned.norms[0].weight is pruned.norms[1].weight
    assert pruned.norms[1].weight.shape == (2,)
    assert check(model, graph, {"a": [0, 5], "c": [1]}, inputs=X).ok


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"nope": [0]}, "no channel group 'nope'"),
        ({"conv1": [0, 64]}, "channels 0 to 63"),
        ({"conv1": [-1]}, "0 to 63"),
    ],
)
def test_bad_input(resnet, keep, message):
    model, graph = resnet
    with pytest.raises(InputError, match=message):
        remove(model, graph, keep)
    with pytest.raises(InputError, match=r"no removable block 'layer9'; |no removable block 'layer9' in"):
        remove(model, graph, {}, blocks=["layer9"])


def test_apply_uses_the_plan():
    model = torchvision.models.resnet18(num_classes=4)
    graph = trace(model, X)
    plan = Plan(graph.fingerprint, {"layer1.0.conv1": (0, 1, 2)}, ("layer2.1",))
    pruned = apply(model, graph, plan)
    assert pruned.layer1[0].conv1.out_channels == 61
    assert isinstance(pruned.layer2[1], nn.Identity)


def test_a_removed_block_keeps_the_activation_that_its_shortcut_needs():
    model = torchvision.models.resnet18(num_classes=4)
    graph = trace(model, X)
    projected = remove(model, graph, {}, blocks=["layer2.0"]).layer2[0]
    assert isinstance(projected[-1], nn.ReLU)
    assert not projected[-1].inplace
    model.relu = nn.Tanh()
    model.maxpool = nn.Identity()
    signed = remove(model, trace(model, X), {}, blocks=["layer1.0"]).layer1[0]
    assert isinstance(signed, nn.ReLU) and not signed.inplace


def test_onnx_export_computes_the_same():
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10).eval()
    graph = trace(model, X)
    pruned = remove(
        model, graph, {name: range(1, size, 2) for name, size in graph.sizes().items()}, blocks=["layer2.0"]
    )
    program = torch.onnx.export(pruned, (X,), dynamo=True, verbose=False)
    stream = io.BytesIO()
    program.save(stream)
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    actual = session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), pruned(X), rtol=1e-4, atol=1e-4)
