"""Networks of a table of a CPU through ONNX Runtime: corrected operator by operator, in estimates and matrices."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from latency_model.conformal import FamilyConformal
from latency_model.corrections import TermsCorrection, fit_terms, leave_networks_out, predicted_us
from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.estimate import explain
from latency_model.fit_report import write_report
from latency_model.fitting import fit_files, report_facts
from latency_model.harvest import harvest
from latency_model.measurement import NetworkRow
from latency_model.model import LatencyModel
from latency_model.row_model import Predicted
from latency_model.table import LatencyTable
from latency_model.timed_networks import timed_networks
from latency_model.zoo import load_model

CPU = Environment("Test CPU", "cpu", "onnxruntime", "1.0")
FAMILIES = ("vgg11", "resnet18", "resnet50", "squeezenet1_0", "mnasnet1_0")


@pytest.fixture(scope="module")
def network():
    return harvest(load_model("digits_resnet", seed=0), batch=1)


@pytest.fixture(scope="module")
def table(synthetic, network):
    """A table with eight networks that take 30 % more than their rows, and 20 us for the call."""
    table = synthetic.table_of(network, step=16, environment=CPU)
    shapes = [shape for _, shape in network.shapes()]
    networks = []
    for place, name in enumerate(FAMILIES * 2):
        some = tuple(shapes[: 3 + place % 7])
        whole = 1.3 * sum(table[shape].latency_us for shape in some) + 20
        networks.append(NetworkRow(f"{name}-{place}", some, synthetic.measurement(whole)))
    return dataclasses.replace(table, networks=tuple(networks))


@pytest.fixture(scope="module")
def model(table):
    return LatencyModel.fit([table])


def test_the_correction_is_one_of_terms_and_knows_its_families(model):
    assert isinstance(model.correction, TermsCorrection)
    assert model.correction.networks == 10
    assert model.families is not None
    assert set(model.families.unseen.sizes.values()) == {2}
    assert set(model.families.known.sizes.values()) == {2}
    left_out = model.left_out()
    assert len(left_out) == 10
    assert np.mean([abs(n.predicted_us / n.measured_us - 1) for n in left_out]) < 0.05


def test_shares_and_the_call_are_the_estimate(model, network):
    estimate = model.estimate(network)
    shares = sum(part.corrected_us for part in (*estimate.sites, *estimate.ops))
    assert estimate.latency_us == pytest.approx(shares + model.correction.call_us)
    assert estimate.latency_us == pytest.approx(1.3 * estimate.raw_sum_us + 20, rel=0.1)
    assert estimate.low_us <= estimate.latency_us <= estimate.high_us
    assert estimate.low_us < estimate.high_us
    # Nothing of it was predicted: the interval is that of networks of families that were left out.
    low, high = model.families.interval(estimate.latency_us, confidence=0.9)
    assert estimate.low_us == pytest.approx(min(low, estimate.latency_us))
    assert estimate.high_us == pytest.approx(max(high, estimate.latency_us))
    assert "by each operator's kind" in explain(estimate)


def test_the_interval_of_a_known_family_rests_on_networks_left_out_alone(model, network, table):
    timed, _ = timed_networks(table, model.convs)
    ratios = leave_networks_out(timed, fit_terms)
    # The last network by a correction that knew all others, its family's other one too.
    rest = fit_terms(timed[:-1])
    assert ratios[-1] == pytest.approx(np.log(timed[-1].measured_us / predicted_us(rest, timed[-1])))
    known = FamilyConformal.fit([n.family for n in timed], ratios)
    assert model.families.known.means == pytest.approx(known.means)
    estimate = model.estimate(network, family="resnet-basic")
    low, high = known.interval(estimate.latency_us, "resnet-basic")
    assert estimate.low_us == pytest.approx(min(low, estimate.latency_us))
    assert estimate.high_us == pytest.approx(max(high, estimate.latency_us))
    assert estimate.family == estimate.to_json()["family"] == "resnet-basic"
    assert "networks of the family resnet-basic" in explain(estimate)
    assert model.estimate(network).latency_us == estimate.latency_us
    with pytest.raises(InputError, match="no network of the family 'alexnet'"):
        model.estimate(network, family="alexnet")


def test_corrected_matrices_at_full_width_are_the_shares(model, network):
    matrices = model.matrices(network, corrected=True)
    estimate = model.estimate(network)
    for site, part in zip(network.sites, estimate.sites, strict=True):
        matrix = matrices[site.name]
        assert matrix.flat[-1] == pytest.approx(part.corrected_us)
        assert matrix.flat[0] == 0
        for axis in range(matrix.ndim):
            assert (np.diff(matrix, axis=axis) >= -1e-9).all()
    plain = model.matrices(network)
    assert any((plain[name] != matrices[name]).any() for name in plain)


def test_a_saved_model_keeps_terms_and_families(model, network, tmp_path):
    model.save(tmp_path)
    loaded = LatencyModel.load(tmp_path)
    assert loaded.correction == model.correction
    assert loaded.estimate(network) == model.estimate(network)


def test_the_report_of_a_fit_without_a_regression_shows_its_networks(table, tmp_path):
    table.save(tmp_path / "table.parquet")
    fitted = fit_files([tmp_path / "table.parquet"], regression=False)
    facts = report_facts(fitted, title="networks only")
    assert facts is not None
    assert (len(facts), len(facts.networks)) == (0, 10)
    page, picture = write_report(facts, tmp_path / "out")
    assert "vgg" in page.read_text()
    assert picture.stat().st_size > 1000


@pytest.mark.parametrize("families", [True, False])
def test_what_was_only_predicted_makes_the_interval_wider(model, network, families):
    first = network.sites[0].shape
    less = dataclasses.replace(
        model.table, rows={s: row for s, row in model.table.rows.items() if s.site != first.site}
    )

    class Guess:
        def __init__(self, factor):
            self.factor = factor

        def predict(self, columns, **_options):
            us = np.full(len(columns), 50.0)
            return Predicted(us, us / self.factor, us * self.factor, np.zeros(len(columns), bool))

    kept = model.families if families else None
    widths = []
    for factor in (1.0, 1.5, 3.0):
        guessing = dataclasses.replace(model, table=less, rows=Guess(factor), families=kept)
        found = guessing.estimate(network)
        assert found.sites[0].source == "regressed"
        widths.append((found.latency_us - found.low_us, found.high_us - found.latency_us))
    for narrow, wide in pairwise(widths):
        assert narrow[0] < wide[0]
        assert narrow[1] < wide[1]


def test_few_families_give_no_interval_of_families(table):
    few = dataclasses.replace(table, networks=table.networks[:3])
    model = LatencyModel.fit([few])
    assert model.families is None
    with pytest.raises(InputError, match="no intervals of families"):
        model.estimate(harvest(load_model("digits_resnet", seed=0), batch=1), family="resnet-basic")
    assert isinstance(model.correction, TermsCorrection)
    assert LatencyModel.fit([dataclasses.replace(table, networks=())]).correction.networks == 0


def test_networks_of_other_runtimes_are_corrected_by_slope_and_offset(table):
    other = LatencyTable(dataclasses.replace(CPU, runtime="torch"), table.rows, table.networks)
    model = LatencyModel.fit([other])
    assert not isinstance(model.correction, TermsCorrection)
    assert model.left_out() == ()
