import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from latency_model.errors import InputError
from latency_model.harvest import harvest
from latency_model.measurement import Measurement
from latency_model.model import LatencyModel
from latency_model.reconstruct import reconstruct_many
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable
from latency_model.zoo import load_model
from profiler.adaptive import AdaptivePlan, profile_adaptively, site_grids
from profiler.backends.fake import FakeDevice
from profiler.cli import app
from profiler.runner import profile

FIRST = ConvShape(8, 64, 56, 56, 128, precision="fp16", layout="nhwc")
SECOND = ConvShape(8, 128, 14, 14, 128, (1, 1), padding=(0, 0, 0, 0), precision="fp16", layout="nhwc")


def whole(full, step=8):
    return [
        full.with_channels(a, b)
        for a in range(step, full.in_channels + 1, step)
        for b in range(step, full.out_channels + 1, step)
    ]


def stairs_us(shape):
    a, b = shape.in_channels, shape.out_channels
    kernel = "wide" if b > 72 else "narrow"
    us = 3.0 * (1 + a // 24) * (1.0 if b <= 72 else 1.8) + 0.01 * shape.height
    return us, kernel


def row(shape):
    us, kernel = stairs_us(shape)
    return Measurement(us, us * 0.999, us * 1.001, us, us, us, us, us, 25, "fake", kernels=((kernel, 1.0),))


def finish(plan, rows=None, failing=()):
    rows, asked = dict(rows or {}), []
    while batch := plan.next_batch(rows, failing):
        asked.extend(batch)
        rows |= {shape: row(shape) for shape in batch if shape not in failing}
        assert len(asked) < 10_000
    return rows, asked


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=4),
    st.floats(0.02, 1.0),
)
@settings(max_examples=12, deadline=None)
def test_the_points_are_within_the_budget_wanted_and_none_twice(sizes, budget):
    wanted = [
        shape
        for i, (a, b) in enumerate(sizes)
        for shape in whole(ConvShape(i + 1, 8 * a, 14, 14, 8 * b, precision="fp16", layout="nhwc"))
    ]
    plan = AdaptivePlan(site_grids(wanted), budget)
    rows, asked = finish(plan)
    assert len(asked) == len(set(asked)) == len(rows) <= plan.limit <= len(wanted)
    assert set(asked) <= set(wanted)
    if budget == 1.0:
        assert set(asked) == set(wanted)


@pytest.fixture(scope="module")
def done():
    grids = site_grids([*whole(FIRST), *whole(SECOND)])
    rows, asked = finish(AdaptivePlan(grids, 0.2))
    return grids, rows, asked


def test_the_same_rows_give_the_same_plan(done):
    grids, _, asked = done
    assert finish(AdaptivePlan(grids, 0.2))[1] == asked


def test_a_plan_goes_on_from_any_part_of_its_rows_to_the_same_end(done):
    grids, rows, asked = done
    for part in (1, len(asked) // 3, len(asked) // 2 + 3, len(asked) - 1):
        half = {shape: rows[shape] for shape in asked[:part]}
        again, more = finish(AdaptivePlan(grids, 0.2), half)
        assert again == rows
        assert set(more) == set(asked[part:])


def test_every_site_has_its_corners_and_more_than_a_few_points(done):
    grids, rows, _ = done
    for grid in grids:
        assert grid.full in rows
        assert sum(shape.site == grid.full.site for shape in rows) >= 12


def test_what_fails_is_not_asked_for_again():
    grids = site_grids(whole(FIRST))
    failing = {FIRST, FIRST.with_channels(8, 8)}
    rows, asked = finish(AdaptivePlan(grids, 0.3), failing=failing)
    assert not failing & set(rows)
    assert len(asked) == len(set(asked))


def test_only_wanted_points_of_a_ragged_grid_are_asked_for():
    wanted = [s for s in whole(FIRST) if s.in_channels <= 32 or s.out_channels <= 64]
    _, asked = finish(AdaptivePlan(site_grids(wanted), 0.4))
    assert set(asked) <= set(wanted)


def test_a_depthwise_site_moves_both_counts():
    full = ConvShape(1, 96, 14, 14, 96, groups=96)
    wanted = [full.with_channels(c, c) for c in range(8, 97, 8)]
    _, asked = finish(AdaptivePlan(site_grids(wanted), 0.5))
    assert set(asked) <= set(wanted) and full in asked


def error(grids, rows):
    groups = [
        ({s: r for s, r in rows.items() if s.site == grid.full.site}, list(grid.inputs), list(grid.outputs))
        for grid in grids
    ]
    found = []
    for grid, result in zip(grids, reconstruct_many(groups), strict=True):
        for i, j in np.argwhere(grid.wanted):
            us = stairs_us(grid.shape((i, j)))[0]
            found.append(abs(result.latency_us[i, j] / us - 1))
    return float(np.mean(found))


def test_looking_where_the_steps_are_beats_random_points(done):
    grids, rows, _ = done
    rng = np.random.default_rng(0)
    every = [grid.shape(cell) for grid in grids for cell in np.argwhere(grid.wanted)]
    blind = []
    for _ in range(3):
        chosen = [every[i] for i in rng.permutation(len(every))[: len(rows)]]
        blind.append(error(grids, {shape: row(shape) for shape in chosen}))
    assert error(grids, rows) < 0.8 * np.mean(blind)
    assert error(grids, rows) < 0.03


def test_a_budget_is_a_part():
    for budget in (0.0, -1.0, 1.5):
        with pytest.raises(InputError, match="budget"):
            AdaptivePlan(site_grids(whole(FIRST)), budget)


def test_an_adaptive_run_makes_a_table_of_measured_rows_that_estimates(tmp_path):
    grids = site_grids(whole(FIRST))
    plan, out, told = AdaptivePlan(grids, 0.25), tmp_path / "table.parquet", []
    with FakeDevice(noise=0.002) as device:

        def measure(batch):
            table = profile(device, batch, out=out)
            return table, set(table.failures)

        asked = profile_adaptively(measure, plan, tell=told.append)
        table = LatencyTable.load(out)
        assert set(table) == set(asked) and len(table) <= plan.limit == told[0].limit
        assert [one.number for one in told] == sorted(one.number for one in told)
        grid = LatencyModel.fit([table]).grid(FIRST)
        sources = {grid.at(s.in_channels, s.out_channels).source for s in whole(FIRST)}
        assert sources == {"measured", "reconstructed"}
        off = [
            grid.at(s.in_channels, s.out_channels).latency_us / device.true_us(s) - 1 for s in whole(FIRST)
        ]
    assert np.mean(np.abs(off)) < 0.03


def command(*words):
    result = CliRunner().invoke(app, [*map(str, words)])
    return result.exit_code, result


def test_the_command_measures_a_part_and_goes_on_where_it_was(tmp_path):
    out = tmp_path / "table.parquet"
    words = (
        "resnet20",
        "--runtime",
        "fake",
        "--no-networks",
        "--no-ops",
        "--adaptive",
        "--budget",
        "0.4",
        "--out",
        out,
    )
    code, result = command(*words, "--dry-run", "--json")
    said = json.loads(result.stdout)
    assert code == 0 and 0 < said["at_most"] <= 0.4 * said["configurations"]
    code, result = command(*words, "--json")
    assert code == 0
    first = LatencyTable.load(out)
    assert 0 < len(first) <= said["at_most"]
    assert any("reconstructs the others" in note for note in json.loads(result.stdout)["notes"])
    code, _ = command(*words, "--json")
    assert code == 0 and dict(LatencyTable.load(out).items()) == dict(first.items())
    network = harvest(load_model("resnet20"))
    counts = {name: max(8, full - 16) for name, full in network.groups.items()}
    estimate = LatencyModel.fit([first]).estimate(network, counts)
    assert any("reconstructed" in flag for flag in estimate.flags)


def test_a_budget_without_an_adaptive_plan_is_refused(tmp_path):
    code, result = command("resnet20", "--budget", "0.1", "--out", tmp_path / "t.parquet")
    assert code != 0 and isinstance(result.exception, InputError)
