"""The demo on the fake device with one epoch of everything: resumes, reports, and refuses another budget."""

import json

import pytest

import profiler
import profiler.backends
import pruner.demo
from latency_model.errors import BudgetError, InputError
from latency_model.table import LatencyTable
from profiler.backends.fake import FakeDevice
from pruner.demo import run_demo
from pruner.rundir import recorded

REQUIRED = (
    "method device runtime budget latency_before_us latency_after_us latency_predicted_us ratio_measured "
    "ratio_predicted accuracy_before accuracy_after params_before params_after macs_before macs_after seconds"
)
BUDGET = "latency=0.6x"


class Counter:
    def __init__(self):
        self.epochs_trained, self.measured = [], 0


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The demo in miniature; counts what it trains and measures."""
    with pytest.MonkeyPatch.context() as patch:
        counter = Counter()
        for name in ("TRAIN_EPOCHS", "LEARN_EPOCHS", "RECOVER_EPOCHS"):
            patch.setattr(pruner.demo, name, 1)
        patch.setattr(pruner.demo, "STEP", 16)
        real_open = profiler.backends.open_backend
        patch.setattr(profiler, "open_backend", lambda runtime: real_open("fake"))
        fit, measure = pruner.demo.fit, FakeDevice.measure

        def counted_fit(*args, **options):
            counter.epochs_trained.append(options["epochs"])
            return fit(*args, **options)

        def counted_measure(self, shape, *, run_id):
            counter.measured += 1
            return measure(self, shape, run_id=run_id)

        patch.setattr(pruner.demo, "fit", counted_fit)
        patch.setattr(FakeDevice, "measure", counted_measure)
        yield counter


@pytest.fixture(scope="module")
def finished(quick, tmp_path_factory):
    """A demo that was interrupted twice: when its profile was done, and when its pruning was decided."""
    out, seconds = tmp_path_factory.mktemp("demo") / "out", []

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pruner.demo, "prune", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, budget=BUDGET, seed=0)
        seconds.append(recorded(out)["seconds"])
    rows, measured = len(LatencyTable.load(out / "table.parquet")), quick.measured
    assert rows <= measured <= rows + 2  # the sentinel
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pruner.pipeline.recover", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_demo(out, budget=BUDGET, seed=0)
        seconds.append(recorded(out)["seconds"])
    plan = (out / "prune" / "plan.json").read_bytes()
    report = run_demo(out, budget=BUDGET, seed=0, command="gharial demo")
    assert quick.epochs_trained == [1]
    assert quick.measured == measured
    assert (out / "prune" / "plan.json").read_bytes() == plan
    assert 0 < seconds[0] < seconds[1] < report.seconds
    return out, report


def test_the_report_has_what_is_promised(finished):
    out, report = finished
    data = json.loads((out / "report.json").read_text())
    assert set(REQUIRED.split()) <= set(data)
    assert data == json.loads(json.dumps(report.to_json()))
    assert (data["method"], data["device"], data["budget"]) == ("gator", "fake device", BUDGET)
    assert 0.4 < data["ratio_measured"] <= 0.63
    assert data["ratio_measured"] == pytest.approx(data["latency_after_us"] / data["latency_before_us"])
    assert abs(data["ratio_measured"] - data["ratio_predicted"]) <= 0.08
    assert 0 < data["params_after"] < data["params_before"]
    assert 0 < data["macs_after"] < data["macs_before"]
    assert all(0 < data[name] < 100 for name in ("accuracy_before", "accuracy_after"))
    assert data["command"] == "gharial demo"


def test_everything_that_the_demo_makes_is_in_its_folder(finished):
    out, _ = finished
    for name in (
        "report.html",
        "report.png",
        "table.parquet",
        "digits_resnet.safetensors",
        "prune/pruned.onnx",
        "prune/weights.safetensors",
        "prune/spec.json",
        "prune/report.json",
    ):
        assert (out / name).stat().st_size > 100, name
    assert any((out / "model").iterdir())


def test_a_finished_demo_is_not_done_again(quick, finished):
    out, report = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    measured = quick.measured
    assert run_demo(out, budget=BUDGET, seed=0) == report
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert quick.measured == measured


def test_another_budget_or_seed_in_the_same_folder_is_refused(finished):
    out, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    for changed in ({"budget": "latency=0.5x", "seed": 0}, {"budget": BUDGET, "seed": 1}):
        with pytest.raises(InputError, match="--restart"):
            run_demo(out, **changed)
    with pytest.raises(BudgetError, match=r"latency=0\.7x"):
        run_demo(out, budget="latency=fast", seed=0, restart=True)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_unreadable_budget_makes_no_folder(tmp_path):
    with pytest.raises(BudgetError):
        run_demo(tmp_path / "demo", budget="quickly", seed=0)
    assert not (tmp_path / "demo").exists()
