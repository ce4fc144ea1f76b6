"""What a method found survives a file, and travels between networks of one architecture only."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from latency_model.errors import InputError, WeightsError
from pruner.graph import trace
from pruner.methods import Values
from pruner.training.state import save_tensors
from pruner.values_file import VALUES, load_values, method_of, save_values, transferred

worth = st.lists(st.floats(0, 1e300), min_size=1, max_size=5).map(np.array)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=8)


def network(width=4):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 2, 3))


def graph_of(model):
    return trace(model.eval(), torch.zeros(2, 1, 8, 8))


def same(first, second):
    assert first.keys() == second.keys()
    return all(np.array_equal(first[name], second[name]) for name in first)


@given(
    channels=st.dictionaries(names, worth, min_size=1, max_size=4), with_shares=st.booleans(), data=st.data()
)
def test_what_is_written_is_read(tmp_path_factory, channels, with_shares, data):
    counts = {name: data.draw(st.integers(0, 9)) for name in channels}
    shares = {name: data.draw(st.floats(1e-6, 1)) for name in channels} if with_shares else None
    curves = data.draw(st.one_of(st.none(), st.just({name: -one for name, one in channels.items()})))
    path = tmp_path_factory.mktemp("values") / "values.safetensors"
    save_values(Values(channels, counts, {"lambda": 0.1}, shares, curves), path, method="m")
    found = load_values(path)
    assert method_of(path) == "m"
    assert same(found.channels, channels)
    assert (found.open_counts, found.notes, found.shares) == (counts, {"lambda": 0.1}, shares)
    assert (found.curves is None) == (curves is None)
    assert curves is None or same(found.curves, curves)


def test_values_travel_to_the_same_architecture_only(tmp_path):
    graph = graph_of(network())
    values = Values({name: np.arange(float(group.size)) for name, group in graph.groups.items()})
    with pytest.raises(InputError, match="holds no values of a pruning method"):
        transferred(tmp_path, graph)
    save_values(values, tmp_path / VALUES, method="m")
    assert same(transferred(tmp_path, graph).channels, values.channels)
    with pytest.raises(InputError, match=r"other groups of channels \(0 has 4 there, 6 here\)"):
        transferred(tmp_path, graph_of(network(6)))


def test_another_file_is_refused(tmp_path):
    save_tensors(tmp_path / VALUES, {"x": torch.zeros(1)}, {})
    with pytest.raises(InputError, match="holds no values"):
        load_values(tmp_path / VALUES)
    (tmp_path / VALUES).write_bytes(b"half")
    with pytest.raises(WeightsError, match="damaged"):
        load_values(tmp_path / VALUES)


def test_a_curve_is_the_harm_above_that_of_all_channels():
    graph = graph_of(network())
    values = Values({"0": np.ones(4)}, curves={"0": np.array([9.0, 7.0, 4.0, 4.0, 1.0])})
    assert values.check(graph, method="m").losses({"0": (0, 2, 4)}) == {"0": {0: 8.0, 2: 3.0, 4: 0.0}}
    assert Values({"0": np.ones(4)}).losses({"0": (2, 4)}) is None
    for bad in ([1.0] * 4, [1.0, 2.0, 1.0, 1.0, 0.0], [np.nan] * 5):
        with pytest.raises(InputError, match="5 finite numbers that never rise as the curve of the group 0"):
            Values({"0": np.ones(4)}, curves={"0": np.array(bad)}).check(graph, method="m")
