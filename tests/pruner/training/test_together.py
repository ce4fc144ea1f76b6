"""Several processes train the network that one process trains: weights, gates, counts and accuracies."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latency_model.errors import DependencyError, InputError
from latency_model.harvest import harvest
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel
from profiler.backends.fake import FakeDevice
from profiler.plan import plan
from pruner.data import load_data
from pruner.data.split import MemorySource, Split
from pruner.training import fit
from pruner.training.fabric import FabricProcesses, open_processes
from pruner.training.processes import ALONE, Processes, first_process, world_size
from pruner.training.state import load_state, load_tensors
from pruner.training.sync_norm import synchronised_norms

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).with_name("together.py")


def torchrun(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={processes}",
            *arguments,
        ],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process ended with."""
    folder = tmp_path_factory.mktemp("alone")
    runpy.run_path(str(SCRIPT))["main"](folder)
    return folder


def ended_as_one(alone: Path, folder: Path, *, processes: int) -> list[dict]:
    """Check that all processes ended with the same bits, and near those of one; return what each told."""
    expected, _ = load_tensors(alone / "tensors0.safetensors")
    ranks = [load_tensors(folder / f"tensors{rank}.safetensors")[0] for rank in range(processes)]
    for rank in ranks:
        assert rank.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.equal(rank[name], ranks[0][name]), name
            if not name.startswith("dropped."):
                torch.testing.assert_close(rank[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    told = [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(processes)]
    assert all(each == told[0] for each in told)
    one = json.loads((alone / "told0.json").read_text())
    for name in ("open", "train", "validation", "test", "alone"):
        assert told[0][name] == one[name], name
    assert told[0]["test"] == told[0]["alone"]
    for name in ("losses", "notes"):
        assert told[0][name] == pytest.approx(one[name], rel=1e-6)
    # The gates did close something, or their equality would say nothing.
    assert one["open"] != {"conv1": 8, "conv2": 8}
    assert [path.name for path in (folder / "plain").iterdir()] == ["state.safetensors"]
    return told


def test_two_processes_end_where_one_does_also_after_a_kill(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="pip install lightning-fabric")
    script = runpy.run_path(str(SCRIPT))
    device = FakeDevice()
    network = harvest(LoadedModel("net", script["plain_net"]().eval(), (1, 16, 16), 10), batch=1)
    rows = {shape: device.measure(shape, run_id="test") for shape in plan([network], step=16)}
    LatencyTable(device.environment, rows, ()).save(tmp_path / "table.parquet")
    killed = torchrun(str(SCRIPT), str(tmp_path), "-", "kill")
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    _, meta = load_state(tmp_path / "plain")
    assert len(meta["history"]) == 1  # epoch of two
    assert not list(tmp_path.glob("told*"))
    done = torchrun(str(SCRIPT), str(tmp_path), str(tmp_path / "table.parquet"))
    assert done.returncode == 0, done.stderr
    told = ended_as_one(alone, tmp_path, processes=2)
    # A whole pruning run: the first process decides, times and writes, both have the report.
    report = json.loads((tmp_path / "prune" / "report.json").read_text())
    assert told[0]["report"] == told[1]["report"] == json.loads(json.dumps(report))
    # Steps of 16 channels may leave no network near enough: then the report says so.
    missed = abs(report["ratio_measured"] / 0.7 - 1) > 0.02
    assert missed == any("misses the budget" in note for note in report["notes"])
    assert report["ratio_measured"] < 0.75
    assert sum(group["after"] for group in report["groups"]) < 128


def test_three_processes_share_batches_that_three_does_not_divide(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric", reason="pip install lightning-fabric")
    done = torchrun(str(SCRIPT), str(tmp_path), "-", processes=3)
    assert done.returncode == 0, done.stderr
    ended_as_one(alone, tmp_path, processes=3)
    # Each process dropped other values than one process would have: what is shared is the result alone.
    one, _ = load_tensors(alone / "tensors0.safetensors")
    three, _ = load_tensors(tmp_path / "tensors2.safetensors")
    assert not torch.allclose(one["dropped.fc.weight"], three["dropped.fc.weight"], rtol=1e-3)


@given(
    count=st.integers(1, 40),
    batch=st.integers(1, 16),
    world=st.integers(1, 5),
    limit=st.none() | st.integers(1, 3),
    augment=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_parts_of_all_processes_are_the_batches_of_one(
    count: int, batch: int, world: int, limit: int | None, augment: bool
) -> None:
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    split = Split("train", lambda: MemorySource(pixels, torch.arange(count)), mean=(0.5,), std=(0.25,))
    options = {"shuffle": True, "augment": augment, "seed": 3, "epoch": 1, "limit": limit}
    parts = [list(split.batches(batch, **options, rank=rank, world=world)) for rank in range(world)]
    bounds = split.bounds(batch, limit, world=world)
    if world <= 2:
        assert bounds == split.bounds(batch, limit)
    whole = list(split.batches(count, **options | {"limit": None}))
    images, labels = whole[0]
    if min(batch, count) >= world:  # what fit sees to: then every process has a part of every step
        assert {len(part) for part in parts} == {len(bounds)}
        for number, (start, stop) in enumerate(bounds):
            assert torch.equal(torch.cat([part[number][0] for part in parts]), images[start:stop])
            assert torch.equal(torch.cat([part[number][1] for part in parts]), labels[start:stop])
    seen = torch.cat([found for part in parts for _, found in part])
    assert sorted(seen.tolist()) == sorted(labels[: bounds[-1][1]].tolist())


class Crowd:
    """Sums over threads: what several processes do, in one."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world, timeout=30)
        self.given: list[torch.Tensor] = []

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.barrier.wait() == 0:
            self.given = []
        self.barrier.wait()
        self.given.append(tensor.detach().clone())
        self.barrier.wait()
        return torch.stack(sorted(self.given, key=lambda t: t.sum().item())).sum(0)


@pytest.mark.parametrize("parts", [(3, 4), (7, 0), (1, 5, 1)])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"momentum": None}, {"track_running_stats": False}]
)
def test_a_shared_out_batch_norm_is_that_of_the_whole_batch(parts: tuple[int, ...], options: dict) -> None:
    torch.manual_seed(0)
    x = (100 + torch.randn(7, 3, 2, 2)).requires_grad_()
    weights = torch.randn(7, 3, 2, 2)  # of the outputs in the loss
    whole = nn.BatchNorm2d(3, **options)
    if whole.affine:
        nn.init.uniform_(whole.weight)
        nn.init.uniform_(whole.bias)
    norms = [nn.BatchNorm2d(3, **options) for _ in parts]
    for norm in norms:
        norm.load_state_dict(whole.state_dict())
    expected = whole(x)
    (expected * weights).sum().backward()
    crowd, outputs = Crowd(len(parts)), {}
    starts = [sum(parts[:number]) for number in range(len(parts))]
    shards = [x.detach()[a : a + n].clone().requires_grad_() for a, n in zip(starts, parts, strict=True)]

    def work(number: int) -> None:
        with synchronised_norms(norms[number], crowd.total):
            outputs[number] = norms[number](shards[number])
            own = slice(starts[number], starts[number] + parts[number])
            (outputs[number] * weights[own]).sum().backward()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    close = {"rtol": 1e-3, "atol": 1e-3}  # plain batch norm loses digits at a mean of 100
    torch.testing.assert_close(torch.cat([outputs[n] for n in range(len(parts))]), expected, **close)
    torch.testing.assert_close(torch.cat([shard.grad for shard in shards]), x.grad, **close)
    if whole.affine:
        for name in ("weight", "bias"):
            summed = sum(getattr(norm, name).grad for norm in norms)
            torch.testing.assert_close(summed, getattr(whole, name).grad, **close)
    for norm in norms:
        for name, buffer in whole.named_buffers():
            torch.testing.assert_close(norm.get_buffer(name), buffer, rtol=1e-4, atol=1e-4)
        assert "forward" not in vars(norm)


def test_a_norm_in_evaluation_mode_works_as_ever() -> None:
    norm, x = nn.BatchNorm2d(3).eval(), torch.randn(4, 3, 2, 2)
    with synchronised_norms(norm, lambda _: pytest.fail("nothing is to be summed")):
        assert torch.equal(norm(x), x / (1 + norm.eps) ** 0.5)


def test_one_process_needs_no_fabric(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert open_processes() is ALONE
    assert first_process()
    assert world_size() == 1


def test_several_processes_without_fabric_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    assert not first_process()
    with pytest.raises(DependencyError, match="pip install lightning-fabric"):
        open_processes()


def test_one_gpu_cannot_be_that_of_all_processes() -> None:
    class Fabric:
        device = torch.device("cuda", 1)

    second = FabricProcesses(1, 2, Fabric())
    assert second.place("cuda") == second.place(torch.device("cuda", 1)) == Fabric.device
    with pytest.raises(InputError, match=r"cannot all train on cuda:0: .* give --device cuda,"):
        second.place("cuda:0")
    with pytest.raises(InputError, match="these processes train on cuda, not on cpu"):
        second.place("cpu")


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(InputError, match="8 processes cannot share a batch of 4 images"):
        fit(
            nn.Linear(1, 1),
            load_data("digits"),
            epochs=1,
            lr=0.1,
            batch_size=4,
            processes=Processes(0, 8),
        )
