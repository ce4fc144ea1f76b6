"""Union-find of channel labels."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pruner.graph.labels import Labels, fixed, varying

pairs = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), max_size=20)


@given(pairs)
def test_roots_are_the_connected_components(edges):
    labels = Labels()
    labels.new(12)
    for a, b in edges:
        labels.unify(torch.tensor([a]), torch.tensor([b]), "")
    component = {i: {i} for i in range(1, 13)}
    for a, b in edges:
        merged = component[a] | component[b]
        for i in merged:
            component[i] = merged
    assert labels.roots(torch.arange(1, 13)).tolist() == [min(component[i]) for i in range(1, 13)]


@given(pairs, st.integers(1, 12))
def test_freezing_reaches_the_whole_class_in_any_order(edges, victim):
    before, after = Labels(), Labels()
    for labels in (before, after):
        labels.new(12)
    before.freeze([victim], "first")
    for labels in (before, after):
        for a, b in edges:
            labels.unify(torch.tensor([a]), torch.tensor([b]), "")
    after.freeze([victim], "first")
    for i in range(1, 13):
        assert before.why_frozen(i) == after.why_frozen(i)
    assert before.why_frozen(victim) == "first"


def test_joining_the_fixed_label_freezes_without_merging():
    labels = Labels()
    new = labels.new(2)
    labels.unify(new, fixed(1), "meets the input")
    assert labels.why_frozen(int(new[0])) == "meets the input"
    assert labels.roots(new).tolist() == new.tolist()


def test_along_joins_across_other_axes_after_a_pixel_shuffle():
    labels = Labels()
    shuffled = torch.nn.functional.pixel_shuffle(labels.new(8).reshape(1, 8, 1, 1), 2)
    one = labels.along(shuffled, 1, 2, "")
    assert labels.roots(torch.arange(1, 9)).tolist() == [1] * 4 + [5] * 4
    assert one.tolist() == [1, 5]


def test_along_freezes_labels_of_an_axis_that_is_not_contracted():
    labels = Labels()
    new = labels.new(3)
    labels.along(new.reshape(1, 3, 1), 2, 5, "spread")
    assert [labels.why_frozen(int(label)) for label in new] == ["spread"] * 3


def test_compact_drops_axes_of_equal_labels():
    labels = Labels()
    full = labels.new(3).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert labels.compact(full).shape == (1, 3, 1, 1)
    assert varying(labels.compact(full)) == [1]
