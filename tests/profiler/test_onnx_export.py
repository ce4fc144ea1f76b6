import logging
import time

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from latency_model.errors import ModelError
from profiler.backends.onnxruntime_cpu import session
from profiler.onnx_export import export_onnx


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(3, 8, 1)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 4)
        # Fresh statistics would fold into a bias of zeros.
        nn.init.normal_(self.bn.bias)
        nn.init.normal_(self.bn.running_mean)

    def forward(self, x):
        y = torch.relu(self.bn(self.conv(x)) + self.down(x))
        return self.fc(self.drop(y.mean((2, 3))))


def outputs_equal(module, data, image):
    opened = session(data)
    (theirs,) = opened.run(None, {opened.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        ours = module.eval()(image).numpy()
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4)


def test_the_export_computes_what_the_module_does():
    torch.manual_seed(0)
    module = Residual()
    outputs_equal(module, export_onnx(module, (3, 9, 7), batch=2), torch.randn(2, 3, 9, 7))


def test_the_module_is_left_as_it_was():
    module = Residual().train()
    module.bn.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    export_onnx(module, (3, 8, 8), batch=1)
    assert module.training
    assert module.drop.training
    assert not module.bn.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_batch_norms_are_folded_and_sizes_fixed():
    graph = onnx.load_model_from_string(export_onnx(Residual(), (3, 8, 8), batch=5)).graph
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim] == [5, 3, 8, 8]


def test_nothing_is_printed_or_logged(capfd, caplog):
    level = logging.getLogger("torch.onnx").level
    export_onnx(Residual(), (3, 8, 8), batch=1)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]
    assert logging.getLogger("torch.onnx").level == level


def test_what_cannot_be_exported_is_a_model_error():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    module = Branches().train()
    with pytest.raises(ModelError, match="Branches cannot be exported"):
        export_onnx(module, (3, 8, 8), batch=1)
    assert module.training
    with pytest.raises(ModelError):
        export_onnx(Residual(), (4, 8, 8), batch=1)


def test_resnet50_takes_less_than_ten_seconds():
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    module = torchvision.models.resnet50().eval()
    start = time.process_time()
    data = export_onnx(module, (3, 64, 64), batch=1)
    assert time.process_time() - start < 10
    outputs_equal(module, data, torch.randn(1, 3, 64, 64))


def test_a_network_is_exported_in_half_precision_without_a_cast():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    graph = onnx.load_model_from_string(export_onnx(module, (3, 8, 8), batch=2, precision="fp16")).graph
    assert [node.op_type for node in graph.node] == ["Conv", "Relu"]
    assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {
        TensorProto.FLOAT16
    }
    assert {tensor.data_type for tensor in graph.initializer} == {TensorProto.FLOAT16}
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_precision_that_no_network_is_exported_in_is_refused():
    with pytest.raises(ModelError, match="not in int8"):
        export_onnx(nn.Conv2d(3, 8, 3), (3, 8, 8), batch=1, precision="int8")
