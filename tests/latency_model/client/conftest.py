import dataclasses
import math

import pytest
from served import served

from latency_model import Client, Environment, LatencyTable, NetworkRow
from latency_model.harvest import harvest
from latency_model.ops import OpShape
from latency_model.shapes import ConvShape
from latency_model.shipped import shipped_tables
from latency_model.zoo import load_model

GPU = Environment("Test GPU 80GB", "cuda", "tensorrt", "10.3", "570.1", "12.8", options=(("fp16", "on"),))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """No test reads this user's cache, or a token that this user has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("GHARIAL_TOKEN", raising=False)
    monkeypatch.delenv("GHARIAL_PLAIN_TOKEN", raising=False)


@pytest.fixture(scope="session")
def cpu_table():
    """The table that ships."""
    return LatencyTable.load(shipped_tables()[0])


def jitter(shape):
    """Microseconds without any pattern in their bits."""
    tiles = math.ceil(shape.out_channels / 8) * math.ceil(shape.in_channels / shape.groups / 4)
    size = shape.batch * shape.out_height * shape.out_width * shape.kernel[0] ** 2
    return 1.7 + 1e-4 * tiles * size * (1.0 + 0.1 * math.sin(shape.in_channels * 7.3 + shape.out_channels))


@pytest.fixture(scope="session")
def gpu_table(synthetic):
    """Grids of two networks in half precision at two batches, some rows in single precision, and what else there is."""
    rows, networks = {}, ()
    for name, batch, step in (
        ("torchvision:resnet18", 1, 64),
        ("torchvision:resnet18", 4, 128),
        ("torchvision:mobilenet_v3_small", 1, 48),
    ):
        cost = harvest(load_model(name), batch=batch, precision="fp16", layout="nhwc")
        made = synthetic.table_of(
            cost, step=step, formula=jitter, environment=GPU, whole=lambda total: 0.91 * total + 12.3
        )
        rows |= made.rows
        networks += tuple(NetworkRow(f"{n.name}@{batch}", n.shapes, n.measurement) for n in made.networks)
    cost = harvest(load_model("resnet20"), batch=1, precision="fp32", layout="nchw")
    rows |= synthetic.table_of(cost, step=16, formula=jitter, environment=GPU).rows
    some = next(iter(rows))
    rows[some] = dataclasses.replace(
        rows[some],
        flags=("unstable", "drift"),
        kernels=(("a_kernel<1>", 0.75), ("b", 0.25)),
        note="said, “so”",
    )
    ops = {
        OpShape("Add", ((1, 64 * n, 7, 7),) * 2, precision="fp16", layout="nhwc"): synthetic.measurement(
            1 / n
        )
        for n in range(1, 9)
    }
    failures = {ConvShape.parse("1x9999x8x8 ->16 k3 s1 p1 g1 conv fp16 nhwc"): "out of memory"}
    return LatencyTable(GPU, rows, networks, failures, ops)


@pytest.fixture(scope="session")
def server(tmp_path_factory, gpu_table):
    """A server with the shipped table and ``gpu_table``, which a client sent to it."""
    with served(tmp_path_factory.mktemp("served"), token_cache_s=0) as running:
        with Client(running.url, token=running.token("rows:write")) as client:
            report = client.import_table(gpu_table, source="test")
            assert report["new"] >= len(gpu_table), report
        yield running


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture
def waits(monkeypatch):
    """Wait for nothing between tries, and return for how long it would have been."""
    found = []
    monkeypatch.setattr("latency_model.client.transport.time.sleep", found.append)
    return found
