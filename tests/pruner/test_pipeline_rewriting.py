"""A whole run of a method that takes layers out before channels go, on the fake device."""

import pytest
import torch
from torch import nn

import pruner.pipeline as pipeline
from latency_model.harvest import harvest
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel
from profiler.backends.fake import FakeDevice
from profiler.plan import plan
from pruner.cost import macs_cost
from pruner.edits import Edit
from pruner.methods import Problem, Values, open_method
from pruner.pipeline import PruneRequest, prune
from pruner.plan import Plan
from pruner.report import load_report
from pruner.rewriting import EDITED, apply_edits
from pruner.saved import SPEC, WEIGHTS, rebuild

EDITS = (Edit("conv2", "identity"), Edit("bn2", "identity"))
CALLS = []


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, 2, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))


class Shorter:
    """Takes the second convolution out."""

    name = "shorter"
    paper = "arXiv 0000.00000"
    needs_data = False
    trains = True

    def rewrite(self, problem: Problem):
        CALLS.append(problem.price_after(EDITS) / problem.cost.full)
        apply_edits(problem.model, EDITS)
        with torch.no_grad():
            problem.model.conv1.weight.mul_(0.5)
        return EDITS

    def values(self, problem: Problem) -> Values:
        assert "conv2" not in {site.name for site in problem.graph.sites}
        return open_method("l1").values(problem)


@pytest.fixture
def request_of(monkeypatch, tmp_path):
    def load(name):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LoadedModel(name, Net().eval(), (1, 16, 16), 10)

    monkeypatch.setattr("pruner.setting.load_model", load)
    monkeypatch.setattr(pipeline, "open_method", lambda name, options: Shorter())
    device = FakeDevice()
    rows = {s: device.measure(s, run_id="test") for s in plan([harvest(load("net"), batch=1)], step=8)}
    table = tmp_path / "table.parquet"
    LatencyTable(device.environment, rows, ()).save(table)
    CALLS.clear()

    def make(**changes):
        options = {"budget": "macs=0.2x", "epochs": 1, "finetune_epochs": 1, "device": "cpu", **changes}
        return PruneRequest(
            model="net", table=str(table), data="digits", method="shorter", batch_size=256, **options
        )

    return make


def macs_of(module):
    return macs_cost(harvest(LoadedModel("net", module, (1, 16, 16), 10), batch=1)).full


def test_layers_go_first_and_channels_after_them(request_of, tmp_path):
    out = tmp_path / "run"
    report = prune(request_of(), out)
    plan = Plan.load(out / "plan.json")
    assert plan.edits == EDITS
    assert plan.predicted["macs_before"] == macs_of(Net()) == report.macs_before
    assert report.macs_after <= 0.2 * report.macs_before
    assert "conv2" not in {group.name for group in report.groups}
    sites = {site.name: site for site in report.sites}
    assert sites["conv2"].predicted_us == 0 < sites["conv2"].before_us
    assert any("conv2" in note and "taken out" in note for note in report.notes)
    small = rebuild(Net, out / SPEC, out / WEIGHTS)
    assert macs_of(small) == report.macs_after
    assert isinstance(small.conv2, nn.Identity)


def test_where_edits_meet_the_budget_every_channel_stays(request_of, tmp_path):
    report = prune(request_of(budget="macs=0.7x"), tmp_path / "run")
    assert all(group.after == group.before for group in report.groups)
    assert report.macs_after / report.macs_before == pytest.approx(CALLS[0])


def test_the_network_is_rewritten_once(request_of, tmp_path, monkeypatch):
    out, request = tmp_path / "run", request_of()

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "recover", killed)
        with pytest.raises(KeyboardInterrupt):
            prune(request, out)
    assert (out / EDITED).is_file()
    report = prune(request, out)
    assert len(CALLS) == 1
    other = prune(request, tmp_path / "other")
    assert other.accuracy_after == report.accuracy_after


def test_edits_are_taken_over_with_the_values(request_of, tmp_path):
    first = prune(request_of(), tmp_path / "first")
    taken = request_of(transfer_from=str(tmp_path / "first"), recovery="scratch")
    second = prune(taken, tmp_path / "second")
    assert len(CALLS) == 1
    assert second.macs_after == first.macs_after
    assert Plan.load(tmp_path / "second" / "plan.json").edits == EDITS
    assert load_report(tmp_path / "second").groups == first.groups


def test_an_edited_network_is_compensated(request_of, tmp_path):
    report = prune(request_of(compensate=True), tmp_path / "run")
    assert report.accuracy_after is not None
