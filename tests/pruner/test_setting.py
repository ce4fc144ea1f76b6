import dataclasses

import numpy as np
import pytest
import torch

from latency_model.errors import BudgetError, InputError, ModelError, TableError, WeightsError
from latency_model.shapes import PRECISIONS
from latency_model.table import LatencyTable
from profiler.onnx_export import export_onnx
from pruner.allocate import minimum
from pruner.proof import DEPLOYED
from pruner.setting import kept_channels, prepare


@pytest.fixture
def table(kit, tmp_path):
    path = tmp_path / "table.parquet"
    kit.table(batches=(2, 4)).save(path)
    return path


def ready(table, **changes):
    return prepare(
        changes.pop("model", "tiny"),
        **{"weights": None, "table": table, "budget": "latency=0.7x", **changes},
    )


def test_a_setting_has_what_a_run_needs(kit, table):
    setting = ready(table)
    assert setting.batch == 2  # the table's smallest
    assert setting.input_shape == (3, 12, 12)
    assert setting.budget.text == "latency=0.7x"
    assert setting.blocks == {"branch": ("branch.conv1",)}
    assert not setting.module.training
    assert setting.floors == {"stem.0": 2, "branch.conv1": 3, "point": 4, "last": 2}
    assert ready(table, batch=4).latency.full > setting.latency.full


@pytest.mark.parametrize("metric", ["latency", "macs", "params"])
def test_the_cost_is_that_of_the_budget(kit, table, metric):
    setting = ready(table, budget=f"{metric}=0.7x")
    assert setting.cost.metric == metric
    assert setting.cost.network is setting.latency.network


@pytest.mark.parametrize("metric", ["latency", "macs", "params"])
def test_a_budget_below_the_minimum_names_it_and_the_minimum_can_be_had(kit, table, metric):
    with pytest.raises(BudgetError) as caught:
        ready(table, budget=f"{metric}=0.001x")
    said = str(caught.value)
    assert "tiny" in said and "ask for that or more" in said
    setting = ready(table, budget=f"{metric}=1x")
    least = minimum([setting.cost], setting.blocks, floors=setting.floors) / setting.cost.full
    assert f"the least is {least:.3f}x" in said
    ready(table, budget=f"{metric}={least * 1.001}x")
    with pytest.raises(BudgetError):
        ready(table, budget=f"{metric}={least * 0.999}x")


def test_an_absolute_budget_below_the_minimum(kit, table):
    with pytest.raises(BudgetError, match=r"the least is .* us of"):
        ready(table, budget="latency=0.001us")


@pytest.mark.parametrize("budget", ["latency=1s", "macs=1G", "params=1M"])
def test_a_budget_that_the_network_already_meets(kit, table, budget):
    with pytest.raises(BudgetError, match=r"tiny already meets the budget .*; ask for less"):
        ready(table, budget=budget)
    ready(table, budget="latency=1x")


def test_an_unreadable_budget_comes_before_everything_else(kit, tmp_path):
    with pytest.raises(BudgetError, match=r"latency=0\.7x"):
        ready(tmp_path / "none.parquet", budget="latency=fast", model="nothing")


def test_a_missing_table(kit, tmp_path):
    with pytest.raises(TableError, match=r"none\.parquet"):
        ready(tmp_path / "none.parquet")


def test_a_table_without_the_batch(kit, table):
    with pytest.raises(TableError, match=r"no fp32 rows of batch 8, only of 2, 4; profile with --batch 8"):
        ready(table, batch=8)


def test_a_table_without_rows(kit, tmp_path):
    path = tmp_path / "empty.parquet"
    LatencyTable(kit.device().environment).save(path)
    with pytest.raises(TableError, match="no rows"):
        ready(path)


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_a_table_of_one_precision_decides_it(kit, tmp_path, precision):
    path = tmp_path / "half.parquet"
    kit.table(precision=precision).save(path)
    for wanted in (None, precision):
        setting = ready(path, precision=wanted)
        assert setting.precision == precision
        assert {site.shape.precision for site in setting.latency.network.sites} == {precision}
    with pytest.raises(TableError, match=f"no fp32 rows, only of {precision}; profile with --precision fp32"):
        ready(path, precision="fp32")


def test_a_precision_that_no_network_is_exported_in(kit, tmp_path):
    path = tmp_path / "brain.parquet"
    kit.table(precision="bf16").save(path)
    for wanted, said in (
        (None, "rows of bf16 only, and networks are"),
        ("int8", "^networks are"),
        ("fp8", "fp8"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            ready(path, precision=wanted)
        assert str(caught.value).endswith("profile and prune with --precision fp32 or fp16 or tf32")


def test_every_precision_that_is_deployed_can_be_exported(kit):
    for precision, written in DEPLOYED.items():
        assert export_onnx(kit.loaded.module, kit.loaded.input_shape, batch=1, precision=written)
        assert precision in PRECISIONS
    for precision in set(PRECISIONS) - set(DEPLOYED):
        with pytest.raises(ModelError, match=precision):
            export_onnx(kit.loaded.module, kit.loaded.input_shape, batch=1, precision=precision)


def test_with_rows_of_several_precisions_it_is_fp32_or_what_was_asked_for(kit, tmp_path):
    path, without = tmp_path / "all.parquet", tmp_path / "without.parquet"
    single, half = kit.table(batches=(4,)), kit.table(batches=(1,), precision="fp16")
    short = kit.table(batches=(1,), precision="tf32")
    dataclasses.replace(single, rows={**single.rows, **half.rows, **short.rows}).save(path)
    dataclasses.replace(half, rows={**half.rows, **short.rows}).save(without)
    setting = ready(path)
    assert (setting.precision, setting.batch) == ("fp32", 4)
    assert {site.shape.precision for site in setting.latency.network.sites} == {"fp32"}
    setting = ready(path, precision="fp16")
    assert (setting.precision, setting.batch) == ("fp16", 1)
    assert setting.latency.full < ready(path, precision="tf32").latency.full
    with pytest.raises(TableError, match=r"no fp16 rows of batch 4, only of 1"):
        ready(path, precision="fp16", batch=4)
    with pytest.raises(InputError, match=r"rows of fp16, tf32; choose one with --precision"):
        ready(without)
    assert ready(without, precision="tf32").precision == "tf32"


def test_a_table_that_lacks_sites_names_them_and_the_command(kit, tmp_path):
    path = tmp_path / "part.parquet"
    whole = kit.table()
    dataclasses.replace(
        whole, rows={shape: row for shape, row in whole.items() if shape.kernel != (1, 1)}
    ).save(path)
    with pytest.raises(TableError) as caught:
        ready(path)
    assert "point (" in str(caught.value)
    assert "gharial profile tiny" in str(caught.value) and f"--out {path}" in str(caught.value)


def test_an_onnx_model_is_not_pruned(kit, table, tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(export_onnx(kit.loaded.module, kit.loaded.input_shape, batch=1))
    with pytest.raises(ModelError, match=r"tiny\.onnx is an ONNX file: it can be profiled and estimated"):
        ready(table, model=str(path))


def test_unknown_model_and_weights(kit, table, tmp_path):
    with pytest.raises(ModelError, match="resnet21"):
        ready(table, model="resnet21")
    with pytest.raises(WeightsError, match=r"no\.safetensors"):
        ready(table, weights=tmp_path / "no.safetensors")


def test_every_refusal_is_an_input_error_of_one_sentence(kit, table, tmp_path):
    for wrong in ({"batch": 3}, {"budget": "latency=0.0001x"}, {"model": "resnet21"}, {"budget": "x"}):
        with pytest.raises(InputError) as caught:
            ready(table, **wrong)
        assert "\n" not in str(caught.value)


def test_the_best_channels_are_kept_and_ties_stay_in_order(kit, table):
    setting = ready(table)
    full = {name: group.size for name, group in setting.graph.groups.items()}
    values = {name: np.ones(size) for name, size in full.items()}
    values["stem.0"] = np.array([0, 5, 1, 5, 2, 5, 3, 0, 0, 0, 0, 0, 0, 0, 0, 9.0])
    counts = {**full, "stem.0": 3, "last": 4, "branch.conv1": 0}
    kept = kept_channels(setting, values, counts)
    assert kept["stem.0"] == [1, 3, 15]  # of the three fives the first two
    assert kept["last"] == [0, 1, 2, 3]
    assert kept["branch.conv1"] == []
    assert kept["point"] == list(range(full["point"]))
    assert kept_channels(setting, {n: torch.as_tensor(v) for n, v in values.items()}, counts) == kept
