"""Where training runs; the GPUs of these tests are said to be there, and not used."""

import pytest
import torch
from torch import nn

from latency_model.errors import InputError
from pruner.training.device import choose, described, on, require_run


@pytest.fixture
def gpus(monkeypatch):
    def have(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return have


@pytest.mark.parametrize(
    ("count", "text", "found"),
    [
        (0, "auto", "cpu"),
        (1, "auto", "cuda"),
        (0, "cpu", "cpu"),
        (2, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_the_device_that_was_asked_for(gpus, count, text, found):
    gpus(count)
    assert choose(text) == torch.device(found)


@pytest.mark.parametrize("text", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "CPU", "meta", "cuda:0 "])
def test_an_unknown_device_is_refused_with_the_known_ones(gpus, text):
    gpus(4)
    with pytest.raises(InputError, match="give auto, cpu, cuda or, for the second GPU, cuda:1"):
        choose(text)


@pytest.mark.parametrize(
    ("count", "text", "said"),
    [
        (0, "cuda", "no GPU here"),
        (0, "cuda:0", "no GPU here"),
        (1, "cuda:1", "1 GPU here"),
        (2, "cuda:2", "2 GPUs"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_how_many_are(gpus, count, text, said):
    gpus(count)
    with pytest.raises(InputError, match=f"'{text}': torch sees {said}.*give --device auto or cpu"):
        choose(text)


def test_models_are_on_the_cpu_again_however_it_ends(monkeypatch):
    moves = []
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    for name, each in (("model", model), ("other", other)):
        monkeypatch.setattr(each, "to", lambda device, name=name: moves.append((name, str(device))))
    there = [("model", "cuda:0"), ("other", "cuda:0")]
    with pytest.raises(KeyboardInterrupt), on(torch.device("cuda:0"), model, other):
        assert moves == there
        raise KeyboardInterrupt
    assert moves == [*there, ("model", "cpu"), ("other", "cpu")]


def test_what_does_not_run_there_is_refused_and_left_as_it_was(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()

    def to(device):
        if str(device) != "cpu":
            raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(model, "to", to)
    with pytest.raises(InputError) as caught:
        require_run(model, (2,), torch.device("cuda", 1), name="net")
    said = "net cannot run on the device cuda:1 (CUDA error: out of memory); give --device cpu"
    assert str(caught.value) == said
    assert model.training and not model[1].training
    require_run(model, (2,), torch.device("cpu"), name="net")


class Straying(nn.Module):
    """Holds a tensor that ``to`` does not move."""

    def __init__(self):
        super().__init__()
        self.fc, self.scale = nn.Linear(2, 2), torch.ones(2)

    def forward(self, x):
        return self.fc(x) * self.scale


def test_a_tensor_that_stays_behind_is_found(monkeypatch):
    # The device without data stands for a GPU; from it nothing comes back, so the way back is left out.
    model = Straying()
    real = model.to
    monkeypatch.setattr(model, "to", lambda device: real(device) if str(device) != "cpu" else None)
    with pytest.raises(InputError, match=r"net cannot run on the device meta .*; give --device cpu"):
        require_run(model, (2,), torch.device("meta"), name="net")


def test_a_report_names_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert described(torch.device("cuda", 1)) == "GPU of cuda:1"
    assert described(torch.device("cpu")) == "cpu"
