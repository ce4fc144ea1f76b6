"""A whole pruning run on the fake device: where its stages run, in what precision it ends, and how it goes on."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import pruner.pipeline as pipeline
from latency_model.errors import InputError
from latency_model.harvest import harvest
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel
from profiler.backends.fake import FakeDevice
from profiler.plan import plan
from pruner.data import load_data
from pruner.methods import Values, open_method
from pruner.oracle import check
from pruner.pipeline import PruneRequest, prune
from pruner.plan import Plan
from pruner.proof import Proof, backend_of
from pruner.report import load_report
from pruner.stages import deciding, learning, recovering, weighing
from pruner.training.state import load_tensors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def ready(monkeypatch, tmp_path):
    """Makes the request of a run of `Net` on the digits, with a table of the fake device."""

    def load(name):
        assert name == "net"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LoadedModel("net", Net().eval(), (1, 16, 16), 10)

    monkeypatch.setattr("pruner.setting.load_model", load)

    def make(*, precisions=("fp32",), **changes):
        device = FakeDevice()
        networks = [harvest(load("net"), batch=1, precision=precision) for precision in precisions]
        rows = {shape: device.measure(shape, run_id="test") for shape in plan(networks, step=16)}
        path = tmp_path / "table.parquet"
        LatencyTable(device.environment, rows, ()).save(path)
        options = {
            "budget": "macs=0.7x",
            "epochs": 1,
            "finetune_epochs": 1,
            "batch_size": 256,
            "device": "cpu",
            **changes,
        }
        return PruneRequest(model="net", table=str(path), data="digits", **options)

    return make


@pytest.mark.parametrize(
    ("precision", "asked", "budget"),
    [("fp16", None, "latency=0.7x"), ("fp16", "fp16", "macs=0.7x"), ("tf32", None, "macs=0.7x")],
)
def test_the_result_is_in_the_precision_of_the_table(ready, tmp_path, monkeypatch, precision, asked, budget):
    onnxruntime = pytest.importorskip("onnxruntime")
    # The fake device times what a file says; it is a device without fp32 where tf32 is wanted.
    monkeypatch.setattr(
        FakeDevice, "precisions", ("tf32", "fp16") if precision == "tf32" else FakeDevice.precisions
    )
    timed = []
    real = FakeDevice.time_networks
    monkeypatch.setattr(
        FakeDevice,
        "time_networks",
        lambda self, models, **rest: timed.extend(models) or real(self, models, **rest),
    )
    rows = (precision, "fp32") if asked else (precision,)
    report = prune(
        ready(precisions=rows, precision=asked, budget=budget, method="l1", epochs=0), tmp_path / "run"
    )
    kept = Plan.load(tmp_path / "run" / "plan.json")
    assert report.precision == kept.precision == precision
    assert json.loads((tmp_path / "run" / "report.json").read_text())["precision"] == precision
    assert any("pruned.onnx has them in fp16" in note for note in report.notes) is (precision == "fp16")
    session = onnxruntime.InferenceSession((tmp_path / "run" / "pruned.onnx").read_bytes())
    (entry,) = session.get_inputs()
    kind = np.float16 if precision == "fp16" else np.float32
    assert entry.type == ("tensor(float16)" if precision == "fp16" else "tensor(float)")
    # Every network that was timed had the same type, the first and the last included.
    for model in timed:
        (seen,) = onnxruntime.InferenceSession(model).get_inputs()
        assert seen.type == entry.type
    # What was written computes what the weights compute.
    from pruner.saved import rebuild

    small = rebuild(Net, tmp_path / "run" / "spec.json", tmp_path / "run" / "weights.safetensors").eval()
    images, _ = next(load_data("digits").test.batches(1, shuffle=False, augment=False, seed=0, epoch=0))
    (found,) = session.run(None, {entry.name: images.numpy().astype(kind)})
    with torch.no_grad():
        expected = small(images).numpy()
    assert found.dtype == kind
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-2)


def test_a_device_that_times_no_network_in_the_precision_is_refused():
    environment = FakeDevice().environment
    with pytest.raises(
        InputError, match=r"runs a whole network .* in fp32, not in tf32; prune with --precision fp32"
    ):
        backend_of(environment, precision="tf32")
    with pytest.raises(InputError, match="cannot time fp8"):
        backend_of(environment, precision="fp8")


class Places:
    """Stands for a GPU: knows which models are said to be there."""

    def __init__(self):
        self.there, self.seen = set(), {}

    @contextmanager
    def on(self, device, *models):
        assert device == torch.device("cuda")
        self.there |= {id(model) for model in models}
        try:
            yield
        finally:
            self.there -= {id(model) for model in models}

    def watch(self, patch, owner, name, models, *, there):
        real = getattr(owner, name)

        def watched(*arguments, **options):
            for model in models(arguments, options):
                assert (id(model) in self.there) is there, name
            self.seen[name] = self.seen.get(name, 0) + 1
            return real(*arguments, **options)

        patch.setattr(owner, name, watched)


def test_training_and_weighing_run_on_the_gpu_and_all_else_on_the_cpu(ready, tmp_path, monkeypatch):
    import pruner.decide
    import pruner.methods.gator
    import pruner.summary

    places = Places()
    monkeypatch.setattr(
        pipeline, "choose", lambda text: torch.device("cuda") if text == "auto" else pytest.fail(text)
    )
    monkeypatch.setattr(pipeline, "require_run", lambda *_, **__: None)
    for stage in (learning, deciding, recovering):
        monkeypatch.setattr(stage, "on", places.on)
    monkeypatch.setattr(pruner.summary, "on", places.on)
    monkeypatch.setattr(pruner.summary, "described", lambda device: f"the {device.type} of a test")

    def first(arguments, _):
        return arguments[:1]

    def student_and_teacher(arguments, options):
        return [arguments[0], options["teacher"]]

    def pair(arguments, _):
        return arguments[1:3]

    heavy = {"there": True}
    places.watch(monkeypatch, pruner.methods.gator, "fit", student_and_teacher, **heavy)
    places.watch(monkeypatch, recovering, "fit", student_and_teacher, **heavy)
    places.watch(monkeypatch, weighing, "measure_losses", first, **heavy)
    places.watch(monkeypatch, recovering, "recalibrate", first, **heavy)
    places.watch(monkeypatch, pruner.summary, "evaluate", first, **heavy)
    places.watch(monkeypatch, pipeline, "measure_pair", pair, there=False)
    places.watch(monkeypatch, pruner.decide, "check", first, there=False)
    places.watch(monkeypatch, pruner.decide, "remove", first, there=False)
    places.watch(monkeypatch, pruner.summary, "export_onnx", first, there=False)
    places.watch(monkeypatch, pruner.summary, "save_pruned", first, there=False)
    report = prune(ready(device="auto"), tmp_path / "run")
    assert set(places.seen) == {
        *(
            "fit",
            "measure_losses",
            "recalibrate",
            "evaluate",
            "measure_pair",
            "check",
            "remove",
            "export_onnx",
        ),
        "save_pruned",
    }
    assert places.seen["fit"] == 2 and not places.there
    assert report.trained_on == "the cuda of a test"


class StoppedError(Exception):
    pass


def test_a_run_goes_on_on_another_device_with_the_bits_it_began_with(ready, tmp_path, monkeypatch):
    """Statistics estimated anew, on a device that rounds otherwise, would make another run of the recovery."""
    # Neither timing nor files of ONNX matter here.
    row = FakeDevice().measure(ConvShape(1, 8, 8, 8, 8), run_id="test")
    monkeypatch.setattr(pipeline, "measure_pair", lambda *_, **__: Proof(row, row))
    monkeypatch.setattr("pruner.summary.export_onnx", lambda *_, **__: b"")
    out = tmp_path / "run"
    whole = prune(ready(finetune_epochs=2, method="l1", epochs=0), tmp_path / "whole")
    with monkeypatch.context() as patch:
        real = recovering.fit

        def stopped(*arguments, **options):
            def stop(record):
                if record.epoch == 1:
                    raise StoppedError

            return real(*arguments, **options, on_epoch=stop)

        patch.setattr(recovering, "fit", stopped)
        with pytest.raises(StoppedError):
            prune(ready(finetune_epochs=2, method="l1", epochs=0), out)
    run = json.loads((out / "run.json").read_text())
    assert "device" not in run["request"] and run["request"]["precision"] is None
    # A run of before there was a precision goes on too.
    del run["request"]["precision"]
    (out / "run.json").write_text(json.dumps(run))
    real_recalibrate = recovering.recalibrate

    def rounded(model, *arguments, **options):
        real_recalibrate(model, *arguments, **options)
        model.bn1.running_mean.mul_(1 + 1e-6)

    monkeypatch.setattr(recovering, "recalibrate", rounded)
    monkeypatch.setattr(pipeline, "choose", lambda text: torch.device("cpu"))
    report = prune(ready(finetune_epochs=2, method="l1", epochs=0, device="cuda:7"), out)
    assert report.accuracy_after == whole.accuracy_after
    ends = [load_tensors(folder / "weights.safetensors")[0] for folder in (out, tmp_path / "whole")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    assert load_report(out) == report
    with pytest.raises(InputError, match="precision: None there, 'fp16' asked for"):
        prune(ready(finetune_epochs=2, method="l1", epochs=0, precision="fp16"), out)


def test_a_device_that_is_not_there_costs_nothing(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch sees no GPU here"):
        prune(ready(device="cuda"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_oracle_takes_a_model_from_where_it_is():
    """Its copies are on the CPU; inputs too."""
    from pruner.graph import trace

    model = Net().eval()
    graph = trace(model, torch.zeros(2, 1, 16, 16))
    keep = {name: range(size // 2) for name, size in graph.sizes().items()}
    assert check(model, graph, keep, inputs=torch.randn(2, 1, 16, 16)).ok


def test_recovery_begins_low_where_the_method_has_trained():
    request = PruneRequest(model="net", table="table", budget="latency=0.5x", data="digits", lr=0.03)
    assert request.recovery_lr(open_method("gator")) == 0.015
    assert request.recovery_lr(open_method("l1")) == 0.02
    told = PruneRequest(model="net", table="table", budget="latency=0.5x", data="digits", finetune_lr=0.1)
    assert told.recovery_lr(open_method("gator")) == told.recovery_lr(open_method("l1")) == 0.1


class Counted:
    """A method that counts how often it is asked, and ranks channels by their number."""

    name, paper, needs_data, trains = "counted", "", False, True
    asked = 0

    def values(self, problem):
        type(self).asked += 1
        return Values({name: np.arange(float(group.size)) for name, group in problem.graph.groups.items()})


@pytest.fixture
def counted(monkeypatch):
    monkeypatch.setattr(Counted, "asked", 0)
    monkeypatch.setattr(pipeline, "open_method", lambda name, options: Counted())
    row = FakeDevice().measure(ConvShape(1, 8, 8, 8, 8), run_id="test")
    monkeypatch.setattr(pipeline, "measure_pair", lambda *_, **__: Proof(row, row))
    monkeypatch.setattr("pruner.summary.export_onnx", lambda *_, **__: b"")
    return Counted


def test_values_are_taken_over_from_another_run(ready, tmp_path, counted):
    prune(ready(finetune_epochs=0, method="m", seed=1), tmp_path / "first")
    assert counted.asked == 1
    request = ready(finetune_epochs=0, transfer_from=str(tmp_path / "first"))
    assert request.recovery_lr(Counted()) == 0.02  # nothing has been trained
    assert request.method == "gator"
    report = prune(request, tmp_path / "second")
    assert counted.asked == 1
    # Whose values they are is what the report says, not what would have run.
    assert report.method == "m"
    assert any("taken over from the run" in note for note in report.notes)
    plans = [Plan.load(tmp_path / name / "plan.json") for name in ("first", "second")]
    assert plans[0].removed == plans[1].removed
    assert all(min(gone) == 0 for gone in plans[1].removed.values())
    with pytest.raises(InputError, match="holds no values"):
        prune(ready(transfer_from=str(tmp_path)), tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_groups_are_weighed_by_the_values_alone_where_that_is_wanted(ready, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(weighing, "measure_losses", lambda *_, **__: pytest.fail("measured"))
    prune(ready(finetune_epochs=0, weigh="values"), tmp_path / "run")
    with pytest.raises(InputError, match="weigh must be losses or values, not 'chance'"):
        ready(weigh="chance")


def test_curves_of_a_method_stand_in_for_losses(ready, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(weighing, "measure_losses", lambda *_, **__: pytest.fail("measured"))

    def values(self, problem):
        # Channels of the first group are beyond price, those of the second are worth nothing.
        sizes = problem.graph.sizes()
        curves = {name: np.zeros(size + 1) for name, size in sizes.items()}
        curves["conv1"] = np.linspace(100.0, 0.0, sizes["conv1"] + 1)
        return Values({name: np.ones(size) for name, size in sizes.items()}, curves=curves)

    monkeypatch.setattr(Counted, "values", values)
    prune(ready(finetune_epochs=0), tmp_path / "run")
    assert set(Plan.load(tmp_path / "run" / "plan.json").removed) == {"conv2"}


def test_recovery_from_scratch_knows_nothing_of_the_weights(ready, tmp_path, counted, monkeypatch):
    seen = {}
    monkeypatch.setattr(
        recovering, "fit", lambda model, splits, **rest: seen.update(rest, first=model.conv1.weight.clone())
    )
    prune(ready(recovery="scratch"), tmp_path / "run")
    assert seen["teacher"] is None
    assert seen["lr"] == 0.1
    kept = Plan.load(tmp_path / "run" / "plan.json").removed.get("conv1", ())
    torch.manual_seed(0)
    whole = Net()
    trained = whole.conv1.weight[[c for c in range(64) if c not in kept]]
    assert trained.shape == seen["first"].shape
    assert not torch.equal(trained, seen["first"])
    with pytest.raises(InputError, match="recovery must be finetune or scratch"):
        ready(recovery="none")


def test_a_request_without_the_later_settings_is_the_request_of_before(ready):
    asked = ready().asked()
    assert not {"weigh", "recovery", "transfer_from"} & asked.keys()
    assert ready(weigh="values").asked()["weigh"] == "values"


def test_the_cut_network_is_compensated_once_where_that_is_wanted(ready, tmp_path, counted, monkeypatch):
    monkeypatch.setattr(recovering, "recalibrate", lambda *_, **__: pytest.fail("estimated anew"))
    plain = ready(finetune_epochs=0, compensate=True)
    prune(plain, tmp_path / "run")
    kept = load_tensors(tmp_path / "run" / "recover" / "compensated.safetensors")[0]
    ends = load_tensors(tmp_path / "run" / "weights.safetensors")[0]
    assert all(torch.equal(kept[name], tensor) for name, tensor in ends.items())
    # Whoever goes on begins with what is there.
    (tmp_path / "run" / "report.json").unlink()
    monkeypatch.setattr(recovering, "compensate", lambda *_, **__: pytest.fail("solved again"))
    prune(plain, tmp_path / "run")
    with pytest.raises(InputError, match="leave --compensate out"):
        ready(compensate=True, recovery="scratch")
