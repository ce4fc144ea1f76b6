"""What tests of the page share: tables with staircases, an ONNX model, and `gharial serve` as a process."""

import math
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import httpx
import onnx
from live_service import free_port
from onnx import TensorProto, helper

from latency_model import LatencyTable
from latency_model.environment import Environment
from latency_model.harvest import harvest_onnx
from latency_model.measurement import Measurement
from latency_model.service.store.database import open_database
from latency_model.service.store.rows import put
from latency_model.service.store.tokens import create_token

EVIL = "<img src=x onerror=window.hacked=1>"
FAST = Environment(
    "NVIDIA H100 80GB HBM3", "cuda", "tensorrt", "10.3", "560.35", "12.6", options=(("builds", "3"),)
)
SLOW = Environment(f"{EVIL} Orin <a href='https://example.com/'>x</a>", "cuda", "onnxruntime", "1.22")
_ROOT = Path(__file__).parents[1]


def onnx_model(*, image=24, channels=(29, 60), name=EVIL):
    """Return the bytes of a model of two convolutions whose first is called ``name``."""
    first, second = channels
    weights = {"w1": (first, 3, 3, 3), "w2": (second, first, 3, 3)}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name=name, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu1"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="/body/conv2/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu2"),
    ]
    constants = [
        helper.make_tensor(n, TensorProto.FLOAT, d, [0.0] * math.prod(d)) for n, d in weights.items()
    ]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, image, image)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def row(us):
    return Measurement(
        us, us * 0.98, us * 1.02, us, us, us, us, us, 9, "fake", measured_at="2026-01-01T00:00:00+00:00"
    )


def stairs_us(inputs, outputs, step, scale):
    """Return a latency that rises at multiples of ``step``; what is not a multiple costs 30 % more."""
    whole = scale * math.ceil(inputs / step) * math.ceil(outputs / step)
    return whole + 2.0 if outputs % step == 0 else 1.3 * whole + 2.0


def staircase_table(environment, step, scale):
    """Return a table with the staircases of both convolutions of ``onnx_model``."""
    cost = harvest_onnx(onnx_model(), batch=1)
    rows = {}
    for site, counts in zip(cost.sites, (((3,), range(1, 41)), (range(5, 33), range(40, 73))), strict=True):
        for inputs, outputs in product(*counts):
            shape = site.shape.with_channels(inputs, outputs)
            rows[shape] = row(stairs_us(inputs, outputs, step, scale))
    return LatencyTable(environment, rows)


@dataclass
class Served:
    """A running ``gharial serve``."""

    url: str
    token: str
    folder: Path

    def client(self):
        return httpx.Client(
            base_url=self.url, headers={"authorization": f"Bearer {self.token}"}, timeout=60, trust_env=False
        )


@contextmanager
def served(folder, tables, *, private=False):
    """Run ``gharial serve`` on the rows of ``tables`` and yield it."""
    url = f"sqlite:///{folder}/gharial.db"
    database = open_database(url)
    database.migrate()
    for table in tables:
        put(database, table, source="test")
    token = create_token(database, "all", ["admin"])[1]
    database.close()
    port = free_port()
    given = {
        "GHARIAL_DATABASE_URL": url,
        "GHARIAL_CACHE_DIR": f"{folder}/cache",
        "GHARIAL_IMPORT_SHIPPED": "0",
    }
    environment = {**os.environ, **given, "PYTHONPATH": str(_ROOT)}
    command = [
        sys.executable,
        "-m",
        "gharial",
        "serve",
        "--port",
        str(port),
        *(["--private"] if private else []),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    found = Served(f"http://127.0.0.1:{port}", token, folder)
    try:
        _wait(found, process, len(tables))
        yield found
    finally:
        process.terminate()
        process.wait(60)


def _wait(found, process, count):
    deadline = time.monotonic() + 120
    with found.client() as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, (found.folder / "log").read_text()
            try:
                known = client.get("/v1/environments").json()
            except httpx.TransportError:
                time.sleep(0.1)
                continue
            if len(known) == count and all(one["fresh"] for one in known):
                return
            time.sleep(0.1)
    raise AssertionError("the service did not come up: " + (found.folder / "log").read_text())


def unknown_model():
    """Return a model of which no table knows a row."""
    return onnx_model(image=17)


def aside(environment, device):
    return replace(environment, device=device)


def saved(path, data):
    onnx.save(onnx.load_model_from_string(data), path)
    return path
