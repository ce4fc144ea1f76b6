import pytest
import torch
import torch.nn.functional as F

from latency_model.errors import DataError
from pruner.methods import open_method


def numeric(made, group, channel, images, labels, epsilon=1e-3):
    """d loss / d gate by central differences: the channel scaled where it is read, in double precision."""
    model = made.model
    readers = {"stem": ("inner", "up"), "inner": ("back",), "up": ("fc",)}[group]

    def loss(scale):
        def hook(_, args):
            x = args[0].clone()
            x[:, channel] = x[:, channel] * scale
            return (x,)

        handles = [model.get_submodule(name).register_forward_pre_hook(hook) for name in readers]
        with torch.no_grad():
            value = F.cross_entropy(model(images), labels).item()
        for handle in handles:
            handle.remove()
        return value

    return (loss(1 + epsilon) - loss(1 - epsilon)) / (2 * epsilon)


def test_values_are_squared_derivatives_averaged_over_batches(problem):
    made = problem()
    values = open_method("taylor").values(made).check(made.graph, method="taylor")
    made.model.double()
    batches = list(made.splits.train.batches(8, shuffle=True, augment=False, seed=0, epoch=0))
    assert len(batches) == 3
    gates = {(point.module, point.group) for point in made.graph.gates}
    assert gates == {("inner", "stem"), ("up", "stem"), ("back", "inner"), ("fc", "up")}
    for name, group in made.graph.groups.items():
        expected = [
            sum(numeric(made, name, c, images.double(), labels) ** 2 for images, labels in batches) / 3
            for c in range(group.size)
        ]
        assert values.channels[name] == pytest.approx(expected, rel=1e-3, abs=1e-12)


def test_the_model_is_left_as_it_was(problem):
    made = problem()
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    made.model.train()
    open_method("taylor").values(made)
    after = made.model.state_dict()
    assert made.model.training
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in made.model.parameters())
    assert not any(m._forward_pre_hooks for m in made.model.modules())


def test_no_data_and_a_loss_that_is_not_finite_are_named(problem):
    with pytest.raises(DataError, match="taylor needs images"):
        open_method("taylor").values(problem(splits=None))
    made = problem()
    made.model.fc.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="not finite"):
        open_method("taylor").values(made)
