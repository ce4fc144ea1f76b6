"""Weights drawn anew: as a new network's, by seed, and without touching anybody's chance."""

import pytest
import torch
from torch import nn

from latency_model.errors import InputError
from pruner.training.reset import reset


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))


def test_a_reset_network_is_a_new_one():
    model = network()
    for tensor in model.state_dict().values():
        tensor.fill_(7)
    state = torch.get_rng_state()
    reset(model, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        fresh = network()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in fresh.state_dict().items())
    other = network()
    reset(other, seed=4)
    assert not torch.equal(other[0].weight, model[0].weight)


def test_a_parameter_that_nobody_can_draw_is_named():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Own())
    before = model[0].weight.clone()
    with pytest.raises(InputError, match="1 is a Own, which cannot draw its parameters anew"):
        reset(model, seed=0)
    assert torch.equal(model[0].weight, before)
