"""The contract: over 5,000 questions to a real server, and the answers are those of the same tables, bit for bit."""

import dataclasses
import json
import random

import onnx
import pyarrow.parquet as pq
import pytest

from latency_model.columns import ConvColumns
from latency_model.errors import TableError
from latency_model.explain import explanation
from latency_model.grid import ChannelGrid, efficient_counts
from latency_model.harvest import harvest
from latency_model.lookup import LookupTable
from latency_model.model import LatencyModel
from latency_model.ops import OpShape
from latency_model.table import LatencyTable
from latency_model.zoo import load_model
from profiler.onnx_export import export_onnx

COUNT = {"lookups": 0, "estimates": 0, "refusals": 0, "staircases": 0}
CASES = {"cpu_table": ("resnet20", "resnet56", "digits_resnet"), "gpu_table": ("torchvision:resnet18",)}


@pytest.fixture(scope="module", params=list(CASES))
def table(request, tmp_path_factory):
    """A table as every command reads it from its file."""
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    request.getfixturevalue(request.param).save(path)
    return LatencyTable.load(path)


@pytest.fixture(scope="module")
def model(table):
    return LatencyModel.fit([table])


def latency(row):
    return None if row is None else (row.latency_us, row.low_us, row.high_us)


def nearby(table, count, seed):
    """Return measured configurations, and ones that differ in one size, of which few were measured."""
    draw = random.Random(seed)
    measured = [*table.rows, *table.ops]
    found = []
    for _ in range(count):
        config = draw.choice(measured)
        kind = draw.randrange(4)
        if isinstance(config, OpShape):
            if kind == 1:
                sizes = tuple((size[0] + 1, *size[1:]) for size in config.inputs)
                config = dataclasses.replace(config, inputs=sizes)
        elif kind == 1:
            config = dataclasses.replace(config, batch=draw.choice((1, 2, 4, 7)))
        elif kind == 2:
            config = dataclasses.replace(config, height=config.height + draw.randrange(2))
        elif kind == 3 and config.groups == 1:
            config = config.with_channels(
                config.in_channels, config.out_channels + draw.choice((-1, 1, 8, 16))
            )
        found.append(config)
    return found


def test_lookups_one_by_one(table, client):
    configs = nearby(table, 2000, seed=1)
    found = [client.lookup(config, table.environment) for config in configs]
    assert [latency(row) for row in found] == [latency(table.measured(config)) for config in configs]
    assert 100 < sum(row is None for row in found) < len(configs) - 100
    COUNT["lookups"] += len(configs)


def test_lookups_in_bulk(table, client):
    configs = nearby(table, 2000, seed=2)
    many = client.lookup_many(configs, table.environment.key)
    assert [latency(row) for row in many] == [latency(table.measured(config)) for config in configs]
    convs = ConvColumns.of([config for config in configs if not isinstance(config, OpShape)])
    ours, theirs = LookupTable.build(table).lookup(convs), client.lookup_columns(convs, table.environment)
    for name in ("latency_us", "low_us", "high_us", "found"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes()
    COUNT["lookups"] += len(configs) + len(convs)


def test_lookups_in_bulk_are_split_and_joined(table, client, monkeypatch):
    convs = list(table)[:100]
    for name in ("_LISTED", "_COLUMNS"):
        monkeypatch.setattr(f"latency_model.client.lookups.{name}", 7)
    listed = client.lookup_many(convs, table.environment)
    columns = client.lookup_columns(ConvColumns.of(convs), table.environment)
    wanted = [latency(table[conv]) for conv in convs]
    assert [latency(row) for row in listed] == wanted
    assert list(zip(columns.latency_us, columns.low_us, columns.high_us, strict=True)) == wanted
    assert len(client.lookup_columns(ConvColumns.of([]), table.environment)) == 0
    assert client.lookup_many([], table.environment) == []


def said(model, network, counts=None, **asked):
    """Return what is said locally: the estimate with what `gharial estimate` adds, or the sentence of the refusal."""
    try:
        found = model.estimate(network, counts, **asked)
    except TableError as error:
        return None, str(error)
    if model.table.environment.runtime == "tensorrt":
        note = "fused as ONNX Runtime does it; --engine takes what TensorRT fuses"
        found = dataclasses.replace(found, flags=(*found.flags, note))
    return found, ""


def same(client, model, network, asked_of, counts=None, **asked):
    """Ask both, and return whether there was an estimate."""
    ours, refusal = said(
        model, network, counts, **{n: v for n, v in asked.items() if n not in ("batch", "precision")}
    )
    environment = model.table.environment
    if ours is None:
        with pytest.raises(TableError) as caught:
            client.estimate(asked_of, environment, counts=counts, **asked)
        # Which rows are missing, in the same words; the command that adds them names other places.
        assert str(caught.value).partition("; add")[0] == refusal.partition("; add")[0]
        COUNT["refusals"] += 1
        return False
    theirs = client.estimate(asked_of, environment, counts=counts, **asked)
    assert theirs == ours
    assert theirs.to_json() == ours.to_json()
    assert all(
        type(a) is type(b) for a, b in zip(theirs.sites + theirs.ops, ours.sites + ours.ops, strict=True)
    )
    COUNT["estimates"] += 1
    return True


def networks_of(table):
    cpu = table.environment.kind == "cpu"
    form = {"precision": "fp32", "layout": "nchw"} if cpu else {"precision": "fp16", "layout": "nhwc"}
    names = CASES["cpu_table" if cpu else "gpu_table"]
    return {name: harvest(load_model(name), batch=1, **form) for name in names}


def test_estimates_of_networks_at_any_counts(table, model, client):
    draw = random.Random(3)
    for network in networks_of(table).values():
        for confidence in (0.5, 0.8, 0.9, 0.95, 0.999, 1 / 3):
            assert same(client, model, network, network, confidence=confidence)
        for _ in range(60):
            counts = {group: draw.randint(size // 8, size) for group, size in network.groups.items()}
            same(client, model, network, network, counts=counts, confidence=draw.uniform(0.01, 0.99))
        gone = {next(iter(network.sites)).outputs.terms[0][0]: 0}
        same(client, model, network, network, counts=gone)


def test_estimates_of_models_by_name(table, model, client):
    for name, network in networks_of(table).items():
        # The GPU's table has rows of two precisions, so one has to be chosen.
        given = {} if table.environment.kind == "cpu" else {"precision": "fp16"}
        assert same(client, model, network, name, **given)


@pytest.mark.parametrize(("batch", "precision"), [(1, "fp32"), (1, "fp16"), (4, "fp16")])
def test_estimates_of_onnx_files(table, model, client, tmp_path, batch, precision):
    layout = "nchw" if table.environment.kind == "cpu" else "nhwc"
    name = next(iter(networks_of(table)))
    loaded = load_model(name)
    path = tmp_path / "net.onnx"
    path.write_bytes(export_onnx(loaded.module, loaded.input_shape, batch=batch, precision=precision))
    for given in ({}, {"batch": batch}, {"precision": precision}, {"batch": batch, "precision": precision}):
        network = harvest(load_model(str(path)), layout=layout, **given)
        for confidence in (0.6, 0.9, 0.99):
            known = same(client, model, network, path, confidence=confidence, **given)
            assert known == ((table.environment.kind == "cpu") == (precision == "fp32"))


def test_a_dynamic_batch_of_an_onnx_file(table, model, client, tmp_path):
    loaded = load_model(next(iter(networks_of(table))))
    path = tmp_path / "net.onnx"
    opened = onnx.load_from_string(export_onnx(loaded.module, loaded.input_shape, batch=1))
    opened.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    opened.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    del opened.graph.value_info[:]
    path.write_bytes(opened.SerializeToString())
    layout = "nchw" if table.environment.kind == "cpu" else "nhwc"
    for batch in (None, 1, 2, 4):
        network = harvest(load_model(str(path)), batch=batch, layout=layout)
        same(client, model, network, path, batch=batch)


def test_an_onnx_file_whose_weights_lie_beside_it_is_harvested_here(cpu_table, client, tmp_path):
    loaded = load_model("resnet20")
    opened = onnx.load_from_string(export_onnx(loaded.module, loaded.input_shape, batch=1))
    path = tmp_path / "net.onnx"
    onnx.save(opened, path, save_as_external_data=True, location="net.data", size_threshold=0)
    model = LatencyModel.fit([cpu_table])
    assert same(client, model, harvest(load_model(str(path))), path)


def test_explanations(table, model, client):
    for name, network in networks_of(table).items():
        ours, _ = said(model, network)
        theirs = client.explain(network, table.environment)
        assert theirs.pop("model") == network.name
        assert (theirs.pop("batch"), theirs.pop("precision")) == (1, network.sites[0].shape.precision)
        assert theirs == explanation(model, ours).to_json(), name


def test_staircases(table, model, client):
    draw = random.Random(4)
    shapes = [s for s in table if s.groups == 1]
    for shape in draw.sample(shapes, min(250, len(shapes))):
        axis = draw.choice(("out", "in"))
        found = client.staircase(shape, table.environment, axis=axis)
        at = {"in": shape.out_channels, "out": shape.in_channels}[axis]
        line = {
            (s.out_channels if axis == "out" else s.in_channels): row
            for s, row in table.rows.items()
            if s.site == shape.site and at == (s.in_channels if axis == "out" else s.out_channels)
        }
        assert (found.config, found.axis, found.at) == (shape.text, axis, at)
        assert found.counts == tuple(sorted(line))
        rows = [line[count] for count in found.counts]
        assert list(zip(found.latency_us, found.low_us, found.high_us, strict=True)) == [
            latency(r) for r in rows
        ]
        grid = ChannelGrid.from_table(table, shape).measured_only()
        points = zip(grid.inputs.tolist(), grid.outputs.tolist(), grid.latency_us.tolist(), strict=True)
        sides = [(o, i, us) if axis == "out" else (i, o, us) for i, o, us in points]
        reach = [min(us for along, across, us in sides if along >= c and across >= at) for c in found.counts]
        assert list(found.envelope_us) == reach
        dense = [
            0.0,
            *(
                min(us for along, across, us in sides if along >= c and across >= at)
                for c in range(1, found.counts[-1] + 1)
            ),
        ]
        assert found.efficient == efficient_counts(dense)
        COUNT["staircases"] += 1


def test_tables_fits_and_exports(table, model, client, tmp_path):
    from latency_model.exports import export

    for _ in range(2):  # sent, and from the cache
        found = client.table(table.environment)
        assert found == table
        assert list(found.rows) == list(table.rows) and list(found.ops) == list(table.ops)
    assert LatencyModel.fit([found]).correction == model.correction
    fit = client.fit(table.environment, wait=True)
    assert fit["correction"] == model.correction.to_json()
    assert fit["precisions"] == sorted({shape.precision for shape in table})
    read = {
        "csv": lambda path: {"rows": path.read_text().splitlines()},
        "json": lambda path: json.loads(path.read_text()),
        "parquet": lambda path: {"rows": pq.read_table(path).to_pylist()},
    }
    for kind in read:
        ours, theirs = tmp_path / f"ours.{kind}", tmp_path / f"theirs.{kind}"
        export(table, ours)
        assert client.export(theirs, table.environment) == theirs
        # The rows of a server come in the order of its database.
        ours, theirs = read[kind](ours), read[kind](theirs)
        assert sorted(map(str, ours.pop("rows"))) == sorted(map(str, theirs.pop("rows")))
        assert ours == theirs


def test_there_were_enough_questions():
    asked = sum(COUNT.values())
    if COUNT["lookups"] and COUNT["staircases"]:  # not when a part of the file was run
        assert asked >= 5000 and COUNT["estimates"] >= 300, COUNT
