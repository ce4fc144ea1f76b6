"""What explains an estimate: rows, kernels, and where they switch."""

import dataclasses

import pytest

from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.estimate import Estimate, SiteCost
from latency_model.explain import Step, explanation
from latency_model.model import LatencyModel
from latency_model.shapes import ConvShape
from latency_model.table import LatencyTable

SHAPE = ConvShape(8, 64, 14, 14, 32)
# (output channels, microseconds, kernel): a switch without a change, a change without one, both, and neither.
STAIRS = (
    (8, 10.0, "small"),
    (16, 10.5, "large"),
    (24, 13.0, "large"),
    (32, 13.5, "large"),
    (40, 9.0, "tall"),
)


@pytest.fixture(scope="module")
def model(synthetic):
    rows = {}
    for count, latency, kernel in STAIRS:
        row = synthetic.measurement(latency)
        kernels = ((kernel, 0.9), ("a helper that takes less", 0.1))
        rows[SHAPE.with_channels(64, count)] = dataclasses.replace(row, kernels=kernels)
    # Another input count is another line, whatever its steps are.
    rows[SHAPE.with_channels(32, 8)] = synthetic.measurement(1.0)
    rows[SHAPE.with_channels(32, 16)] = synthetic.measurement(99.0)
    return LatencyModel.fit([LatencyTable(Environment("Test GPU", "cuda", "fake", "1.0"), rows)])


def estimate_of(*parts):
    total = sum(part.latency_us for part in parts)
    return Estimate(total, total, total, total, 0.9, parts)


def test_steps_are_where_the_latency_or_the_kernel_changes(model):
    (part,) = explanation(model, estimate_of(SiteCost("conv", SHAPE, 13.5, "measured"))).parts
    assert part.steps == (
        Step((8, 16), (10.0, 10.5), ("small", "large")),
        Step((16, 24), (10.5, 13.0), ("large", "large")),
        Step((32, 40), (13.5, 9.0), ("large", "tall")),
    )
    assert [step.switched for step in part.steps] == [True, False, True]
    assert part.kernel == "large"
    assert part.row == model.table[SHAPE]


def test_the_text_names_the_row_the_kernel_and_the_switch(model):
    found = explanation(model, estimate_of(SiteCost("conv", SHAPE, 13.5, "measured")), site="conv")
    assert "measured: 13.50 us" in found.text
    assert "kernel: large" in found.text
    assert "from 32 to 40 output channels: 13.50 -> 9.00 us (-33%), large -> tall" in found.text
    assert "from 16 to 24 output channels: 10.50 -> 13.00 us (+24%)\n" in found.text


def test_the_dearest_part_comes_first_with_its_share(model):
    parts = (
        SiteCost("cheap", SHAPE.with_channels(64, 8), 10.0, "measured", corrected_us=11.0),
        SiteCost("dear", ConvShape(1, 3, 7, 7, 5), 30.0, "regressed", corrected_us=33.0),
    )
    found = explanation(model, estimate_of(*parts))
    assert [part.part.name for part in found.parts] == ["dear", "cheap"]
    assert [part.share for part in found.parts] == [0.75, 0.25]
    assert "this very shape was not measured" in found.text
    data = found.to_json()["parts"]
    assert data[0]["row"] is None
    assert data[0]["steps"] == []
    assert data[1]["row"]["kernel"] == "small"
    assert data[1]["corrected_us"] == 11.0


def test_an_unknown_part_is_one_sentence(model):
    with pytest.raises(InputError, match="no part 'other'; its convolutions are conv"):
        explanation(model, estimate_of(SiteCost("conv", SHAPE, 13.5, "measured")), site="other")
