import dataclasses
import json

import numpy as np
import pytest
import torch

from latency_model.errors import InputError, TableError
from latency_model.expectation import ExpectedLatency
from latency_model.harvest import harvest
from latency_model.hull import convex_minorant
from latency_model.measurement import NetworkRow
from latency_model.model import LatencyModel, explain
from latency_model.network import Channels, NetworkCost, Site
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import load_model


@pytest.fixture(scope="module")
def network():
    return harvest(load_model("digits_resnet", seed=0), batch=1)


@pytest.fixture(scope="module")
def table(network, synthetic):
    return synthetic.table_of(network, whole=lambda total: total + 30)


def test_full_width_is_the_sum_and_the_correction(network, table, synthetic):
    model = LatencyModel.fit([table])
    estimate = model.estimate(network)
    total = sum(synthetic.stairs(shape) for _, shape in network.shapes())
    assert estimate.raw_sum_us == pytest.approx(total)
    assert estimate.latency_us == pytest.approx(total + 30)
    assert estimate.low_us < estimate.latency_us < estimate.high_us
    assert {site.source for site in estimate.sites} == {"measured"}
    assert estimate.unpriced == {"ReduceMean": 1, "Gemm": 1}
    assert estimate.flags == ()
    assert (model.correction.slope, model.correction.offset_us) == (1, pytest.approx(30))


def test_counts_between_rows_are_padded_and_flagged(network, table, synthetic):
    model = LatencyModel.fit([table])
    counts = {group: max(1, size - 3) for group, size in network.groups.items()}
    estimate = model.estimate(network, counts)
    assert estimate.raw_sum_us == pytest.approx(model.estimate(network).raw_sum_us)
    assert any("padded" in flag for flag in estimate.flags)
    assert model.estimate(network, {"layer1.0.conv1.out": 0}).raw_sum_us < estimate.raw_sum_us


def test_without_networks_it_says_uncorrected_and_is_less_certain(network, table):
    bare = LatencyModel.fit([dataclasses.replace(table, networks=())])
    one = bare.estimate(network)
    assert "uncorrected" in one.flags
    assert one.latency_us == one.raw_sum_us
    other = LatencyModel.fit([table]).estimate(network)
    assert (one.high_us - one.low_us) / one.latency_us > (other.high_us - other.low_us) / other.latency_us


def test_a_higher_confidence_is_a_wider_interval(network, table):
    model = LatencyModel.fit([table])
    narrow, wide = (model.estimate(network, confidence=c) for c in (0.5, 0.99))
    assert wide.low_us < narrow.low_us < narrow.high_us < wide.high_us
    with pytest.raises(InputError, match="confidence"):
        model.estimate(network, confidence=90)


def test_missing_sites_are_named_with_the_command(table):
    other = harvest(load_model("resnet20", seed=0), batch=4)
    model = LatencyModel.fit([table], origin="mine.parquet")
    for call in (model.estimate, model.matrices):
        with pytest.raises(TableError) as caught:
            call(other)
        message = str(caught.value)
        assert "conv1 (4x3x32x32 ->16" in message
        assert "and 5 more" in message
        assert (
            "gharial profile resnet20 --device cpu --runtime fake "
            "--precision fp32 --batch 4 --out mine.parquet" in message
        )


def test_counts_beyond_the_table_are_an_error(synthetic):
    shape = synthetic.shape
    table = LatencyTable(synthetic.environment, synthetic.rows_of(shape, [(8, 8), (16, 8)]))
    net = NetworkCost("net", (Site("s", shape, Channels(16), Channels(terms=(("g", 1),))),), {"g": 16})
    model = LatencyModel.fit([table])
    for call in (model.estimate, model.matrices):
        with pytest.raises(TableError, match="beyond the table"):
            call(net)
    assert model.estimate(net, {"g": 8}).raw_sum_us > 0


def test_a_row_with_another_bias_stands_in_and_is_flagged(synthetic):
    shape = synthetic.shape
    table = LatencyTable(synthetic.environment, synthetic.rows_of(shape, [(16, 16)]))
    bare = ConvShape.parse(shape.text.replace("conv+bias+relu", "conv+relu"))
    net = NetworkCost("net", (Site("s", bare, Channels(16), Channels(16)),))
    estimate = LatencyModel.fit([table]).estimate(net)
    assert estimate.sites[0].source == "measured, other bias"
    assert any("another bias" in flag for flag in estimate.flags)


def test_flags_of_rows_are_passed_on(synthetic):
    shape = synthetic.shape
    rows = {shape: synthetic.measurement(5.0, flags=("unstable",))}
    net = NetworkCost("net", (Site("s", shape, Channels(16), Channels(16)),))
    estimate = LatencyModel.fit([LatencyTable(synthetic.environment, rows)]).estimate(net)
    assert "measured as unstable (1 of 1 sites)" in estimate.flags


def test_a_network_whose_rows_are_gone_is_not_used(network, table, synthetic):
    shape = ConvShape.parse("9x3x9x9 ->8 k3 s1 p1 g1 conv fp32 nchw")
    extra = NetworkRow("lost", (shape,), synthetic.measurement(4.0))
    model = LatencyModel.fit([dataclasses.replace(table, networks=(*table.networks, extra))])
    assert model.correction.networks == 1
    assert model.notes == ("network lost not used: the table lacks rows of it",)
    assert model.notes[0] in model.estimate(network).flags


@pytest.mark.parametrize("kind", ["envelope", "raw", "minorant"])
def test_matrices_agree_with_estimates_and_feed_the_expectation(network, table, kind):
    model = LatencyModel.fit([table])
    matrices = model.matrices(network, kind)
    for site in network.sites:
        matrix = matrices[site.name]
        assert matrix.shape == (site.shape.in_channels + 1, site.shape.out_channels + 1)
        if kind == "minorant":
            np.testing.assert_array_equal(matrix, convex_minorant(model.matrices(network)[site.name]))
    expected = ExpectedLatency(network, matrices)
    full = float(expected({}))
    assert full == pytest.approx(model.estimate(network).raw_sum_us)
    counts = {group: size - 8 for group, size in network.groups.items()}
    keep = {}
    for group, size in network.groups.items():
        keep[group] = torch.cat([torch.ones(counts[group]), torch.zeros(size - counts[group])])
    if kind != "minorant":
        assert float(expected(keep)) == pytest.approx(model.estimate(network, counts).raw_sum_us)
    else:
        assert float(expected(keep)) <= model.estimate(network, counts).raw_sum_us + 1e-9


def test_a_depthwise_network(synthetic):
    net = harvest(load_model("torchvision:mobilenet_v2", seed=0), batch=1)
    model = LatencyModel.fit([synthetic.table_of(net, step=64)])
    matrices = model.matrices(net)
    assert matrices["features.1.conv.0.0"].shape == (33,)
    assert float(ExpectedLatency(net, matrices)({})) == pytest.approx(model.estimate(net).raw_sum_us)


def test_tables_of_one_environment_are_joined_and_of_two_refused(network, table, synthetic):
    shapes = sorted(table)
    halves = [
        dataclasses.replace(table, rows={s: table[s] for s in part}) for part in (shapes[:99], shapes[99:])
    ]
    assert LatencyModel.fit(halves).estimate(network) == LatencyModel.fit([table]).estimate(network)
    foreign = dataclasses.replace(table, environment=synthetic.other_environment)
    with pytest.raises(TableError, match="different environments"):
        LatencyModel.fit([table, foreign])
    with pytest.raises(TableError, match="at least one"):
        LatencyModel.fit([])
    with pytest.raises(TableError, match="no rows"):
        LatencyModel.fit([LatencyTable(synthetic.environment)])


def test_saved_and_loaded_it_estimates_the_same(network, table, tmp_path):
    model = LatencyModel.fit([table])
    model.save(tmp_path / "model")
    loaded = LatencyModel.load(tmp_path / "model")
    assert loaded.estimate(network) == model.estimate(network)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "table.parquet"]


def test_damaged_models_are_errors(table, tmp_path, synthetic):
    folder = tmp_path / "model"
    with pytest.raises(TableError, match="gharial fit TABLE"):
        LatencyModel.load(folder)
    LatencyModel.fit([table]).save(folder)
    good = (folder / "model.json").read_text()
    for change in ({"format_version": 99}, {"correction": {}}, {"correction": None}, {"rows": 1}):
        (folder / "model.json").write_text(json.dumps(json.loads(good) | change))
        with pytest.raises(TableError):
            LatencyModel.load(folder)
    (folder / "model.json").write_text(good[:40])
    with pytest.raises(InputError, match="cannot read"):
        LatencyModel.load(folder)
    (folder / "model.json").write_text(good)
    dataclasses.replace(table, environment=synthetic.other_environment).save(folder / "table.parquet")
    with pytest.raises(TableError, match="fit the model again"):
        LatencyModel.load(folder)


def test_the_explanation_names_the_parts(network, table):
    text = explain(LatencyModel.fit([table]).estimate(network))
    assert "10 convolutions sum to" in text
    assert "1.000 x sum + 30.0 us" in text
    assert "1 Gemm, 1 ReduceMean" in text
    assert "and 5 cheaper ones" in text
    bare = LatencyModel.fit([dataclasses.replace(table, networks=())])
    assert "not corrected" in explain(bare.estimate(network))
