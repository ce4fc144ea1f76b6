import dataclasses

import pytest

from latency_model import ConvShape
from latency_model.errors import DeviceLostError, InputError, MeasurementError
from latency_model.measurement import Measurement
from latency_model.ops import OpShape
from latency_model.table import LatencyTable
from profiler.gpu.backend import GpuBackend
from profiler.gpu.fake import FakeClock, FakeGpu, FakeRuntime, open_fake_gpu
from profiler.gpu.fake_kernels import BOUNDARY, kernels_of
from profiler.runner import profile
from profiler.sampling import Policy
from profiler.testing import BackendSuite, small_network


class TestPacked(BackendSuite):
    def open(self):
        return open_fake_gpu(at_once=4)


class TestSteps(BackendSuite):
    def open(self):
        return open_fake_gpu(packed=False)


class TestIncrements(BackendSuite):
    def open(self):
        return open_fake_gpu(method="graph-increment")


SHAPES = [ConvShape(8, 64, 14, 14, 32 * k, precision="fp16") for k in range(1, 7)]


def true_us(shape, *, slow=False):
    return sum(us for name, us in kernels_of(shape, slow=slow) if not BOUNDARY.search(name))


def measured(shapes=SHAPES, **options):
    with open_fake_gpu(check=False, **options) as backend:
        return dict(backend.measure_many(shapes, run_id="r"))


def test_every_field_of_a_row_is_filled():
    row = open_fake_gpu(noise=0.003, at_once=8).measure(SHAPES[0], run_id="r")
    assert row.latency_us == pytest.approx(true_us(SHAPES[0]), rel=0.01)
    assert row.cold_us == pytest.approx(1.25 * row.latency_us, rel=0.02)
    assert row.boundary_us == pytest.approx(
        sum(us for name, us in kernels_of(SHAPES[0]) if BOUNDARY.search(name)), rel=0.02
    )
    assert row.method == "kernel-trace"
    assert row.error == 0.0
    assert (row.sm_clock_mhz, row.temperature_c, row.power_w) == (1980.0, 55.0, 420.0)
    assert [name for name, _ in row.kernels] == [
        name for name, _ in kernels_of(SHAPES[0]) if not BOUNDARY.search(name)
    ]
    assert len(row.candidates) == 1
    assert row.candidates[0].builds == 4
    assert row.note == "all 4 builds chose these kernels"
    assert row.flags == ()


def test_rows_are_the_same_for_the_same_seed():
    first, again = measured(), measured()
    strip = lambda row: dataclasses.replace(row, measured_at="")  # noqa: E731
    assert {c: strip(row) for c, row in first.items()} == {c: strip(row) for c, row in again.items()}


@pytest.mark.parametrize("packed", [True, False])
def test_packing_does_not_change_a_row(packed):
    rows = measured(packed=packed, noise=0.0, at_once=4)
    for shape, row in rows.items():
        assert row.latency_us == pytest.approx(true_us(shape))
    assert ("among 3 other" in rows[SHAPES[0]].note) == packed


@pytest.mark.parametrize("packed", [True, False])
def test_one_that_cannot_be_built_costs_only_itself(packed):
    rows = measured(refuse=frozenset(SHAPES[2:3]), packed=packed)
    assert [shape for shape, row in rows.items() if isinstance(row, MeasurementError)] == SHAPES[2:3]


def test_out_of_memory_costs_only_what_does_not_fit():
    large = ConvShape(128, 256, 56, 56, 256, precision="fp16")
    rows = measured([*SHAPES, large], memory_bytes=3e6)
    assert "memory" in str(rows[large])
    assert all(isinstance(rows[shape], Measurement) for shape in SHAPES)
    assert not any("among 6" in rows[shape].note for shape in SHAPES)


def test_what_cannot_be_traced_together_is_traced_apart():
    rows = measured(garble_packed=True)
    assert all(row.method == "kernel-trace" and "among" not in row.note for row in rows.values())


def test_lost_kernels_now_and_then_cost_nothing_but_time():
    rows = measured(garble=0.001)
    assert all(row.latency_us == pytest.approx(true_us(shape), rel=0.02) for shape, row in rows.items())


def test_what_cannot_be_traced_at_all_is_measured_by_the_next_method_or_fails():
    rows = measured(SHAPES[:2], garble=1.0)
    assert {row.method for row in rows.values()} == {"graph-increment"}
    failed = measured(SHAPES[:2], garble=1.0, method="kernel-trace")
    assert all("traced runs show other kernels" in str(row) for row in failed.values())


def test_without_a_profiler_graphs_are_replayed():
    rows = measured(SHAPES[:2], permitted=False)
    assert {row.method for row in rows.values()} == {"graph-increment"}
    assert all("not known" in row.note and row.candidates == () for row in rows.values())
    with pytest.raises(MeasurementError, match="not permitted"):
        open_fake_gpu(permitted=False, method="kernel-trace").measure(SHAPES[0], run_id="r")


def test_an_unknown_method_is_the_callers_mistake():
    with pytest.raises(InputError, match="kernel-trace"):
        open_fake_gpu(method="guess")


def test_a_lost_device_ends_the_run_and_blames_nobody():
    outcomes = []
    with open_fake_gpu(kill=frozenset(SHAPES[5:]), at_once=2, check=False) as backend:
        with pytest.raises(DeviceLostError, match="new process"):
            for outcome in backend.measure_many(SHAPES, run_id="r"):
                outcomes.append(outcome)
        assert not any(isinstance(row, MeasurementError) for _, row in outcomes)
        with pytest.raises(DeviceLostError):
            backend.time_networks([small_network(channels=8, size=8)])


def test_rows_before_a_lost_device_are_kept():
    seen = []
    backend = open_fake_gpu(kill=frozenset(SHAPES[5:]), at_once=2, check=False)
    with pytest.raises(DeviceLostError):
        for config, row in backend.measure_many(SHAPES, run_id="r"):
            assert isinstance(row, Measurement)
            seen.append(config)
    assert set(seen) == set(SHAPES[:4])


def test_conditions_become_flags():
    rows = measured(SHAPES[:1], throttle_after=0, throttle_runs=10**9, others=(77,))
    row = rows[SHAPES[0]]
    assert {"throttled:sw-power-cap", "shared-device"} <= set(row.flags)
    assert row.sm_clock_mhz == 1400.0


def test_a_throttled_build_widens_the_interval():
    steady, capped = measured(SHAPES[:1]), measured(SHAPES[:1], throttle_after=150, throttle_runs=100)
    width = [rows[SHAPES[0]].high_us - rows[SHAPES[0]].low_us for rows in (steady, capped)]
    assert width[1] > 5 * width[0]


def test_wrong_outputs_are_flagged():
    with open_fake_gpu(wrong=frozenset(SHAPES[1:2])) as backend:
        rows = dict(backend.measure_many(SHAPES[:3], run_id="r"))
    assert ["wrong-output" in row.flags for row in rows.values()] == [False, True, False]
    assert rows[SHAPES[1]].error == pytest.approx(1.0)


def test_samples_that_stay_wide_are_flagged():
    policy = Policy(min_samples=20, max_samples=40)
    assert "unstable" in measured(SHAPES[:1], noise=0.3, policy=policy)[SHAPES[0]].flags


def test_every_candidate_of_the_searches_is_kept_and_the_rule_quotes_one():
    rows = [row for seed in range(6) for row in measured(flip=0.3, seed=seed, cold=False).values()]
    mixed = [row for row in rows if len(row.candidates) == 2]
    assert len(mixed) > 10
    for row in mixed:
        first, second = row.candidates
        assert first.builds + second.builds == 8
        assert row.latency_us == first.latency_us
        assert " + ".join(name for name, _ in row.kernels) == first.kernels
        assert (first.latency_us < second.latency_us) == (first.builds > 1 and "splitk" not in first.kernels)
        assert f"{first.builds} of 8 builds" in row.note


def test_two_processes_quote_the_same_kernels_although_single_builds_flip():
    """A flip of 3.6 % a build makes 6.9 % of the rows differ in single builds."""
    shapes = [ConvShape(8, 32, 14, 14, 8 * k, precision="fp16") for k in range(1, 101)]

    def quoted(process, builds, most):
        rows = measured(
            shapes,
            flip=0.036,
            process=process,
            builds=builds,
            most_builds=most,
            cold=False,
            at_once=50,
            noise=0.002,
            policy=Policy(min_samples=20, max_samples=20),
        )
        return [rows[shape].kernels[0][0] for shape in shapes]

    single = [quoted(process, 1, 1) for process in (0, 1)]
    settled = [quoted(process, 4, 8) for process in (0, 1)]
    assert sum(a != b for a, b in zip(*single, strict=True)) >= 3
    assert settled[0] == settled[1]


@pytest.mark.parametrize("spread", [0.0, 0.004, 0.02])
def test_intervals_hold_what_another_process_measures(spread):
    """Builds differ by ``spread``, and every process has other builds."""
    shapes = [ConvShape(8, 64, 14, 14, 32 * k, precision="fp16") for k in range(1, 13)]
    options = {"build_spread": spread, "cold": False, "packed": False}
    held = [
        first.low_us <= again.latency_us <= first.high_us
        for pair in range(20)
        for first, again in zip(
            measured(shapes, process=2 * pair, **options).values(),
            measured(shapes, process=2 * pair + 1, **options).values(),
            strict=True,
        )
    ]
    assert 0.90 <= sum(held) / len(held) <= 0.99


def test_what_differs_between_processes_alone_must_be_given():
    shapes, held = SHAPES[:3], {0.0: [], 0.01: []}
    for known in held:
        for pair in range(30):
            first, again = (
                dict(
                    open_fake_gpu(
                        gpu=FakeGpu(process=process, process_spread=0.01, noise=0.003),
                        check=False,
                        cold=False,
                        builds=3,
                        process_spread=known,
                    ).measure_many(shapes, run_id="r")
                )
                for process in (2 * pair, 2 * pair + 1)
            )
            held[known] += [first[s].low_us <= again[s].latency_us <= first[s].high_us for s in shapes]
    assert sum(held[0.0]) / 90 < 0.7
    assert 0.88 <= sum(held[0.01]) / 90 <= 1.0


def test_a_later_build_that_fails_costs_no_row():
    gpu = FakeGpu()

    class Failing(FakeRuntime):
        def build(self, configs, **options):
            if gpu.builds >= 3:
                raise MeasurementError("no more")
            return super().build(configs, **options)

    backend = GpuBackend(Failing(gpu), FakeClock(gpu), method="kernel-trace", check=False)
    row = backend.measure(SHAPES[0], run_id="r")
    assert "build 4 failed: no more" in row.note
    assert row.candidates[0].builds == 3


def test_networks_are_replayed_by_turns_and_carry_the_conditions():
    with open_fake_gpu(noise=0.0, others=(5,)) as backend:
        (row,) = backend.time_networks([small_network(channels=64, size=16)], rounds=3, run_id="r")
    assert row.method == "graph-replay"
    assert row.samples == 12
    assert "shared-device" in row.flags


def test_operators_have_rows_as_well():
    op = OpShape("Add", ((1, 64, 56, 56), (1, 64, 56, 56)), precision="fp16")
    row = open_fake_gpu().measure(op, run_id="r")
    assert row.kernels == (("op_Add", 1.0),)
    assert row.error == 0.0


def test_closing_twice_does_no_harm():
    closed = []
    backend = open_fake_gpu()
    backend._runtime.close = lambda: closed.append(1)
    backend.close()
    backend.close()
    assert closed == [1]


def test_the_runner_makes_a_table_of_it(tmp_path):
    with open_fake_gpu(at_once=4, flip=0.3) as backend:
        table = profile(backend, SHAPES, out=tmp_path / "gpu.parquet")
    again = LatencyTable.load(tmp_path / "gpu.parquet")
    assert set(again.rows) == set(SHAPES)
    assert again.rows == table.rows
    assert any(len(row.candidates) > 1 for row in again.rows.values())


def test_the_intervals_of_a_pack_lean_on_each_others_builds():
    """With two builds alone, one degree of freedom is left, and half the interval is 12.7 deviations."""
    options = {"build_spread": 0.01, "builds": 2, "most_builds": 2, "cold": False, "packed": False}
    together = measured(**options)
    alone = [measured([shape], seed=k, **options)[shape] for k, shape in enumerate(SHAPES)]
    widths = [[(r.high_us - r.low_us) / r.latency_us for r in rows] for rows in (together.values(), alone)]
    assert max(widths[0]) < max(widths[1]) / 2
