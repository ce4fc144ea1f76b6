import pytest
from hypothesis import given
from hypothesis import strategies as st

from latency_model.errors import BudgetError
from pruner.budget import METRICS, Budget, parse_budgets


@pytest.mark.parametrize(
    ("text", "full", "target"),
    [
        ("latency=0.7x", 1000.0, 700.0),
        ("latency=1.8ms", 5000.0, 1800.0),
        ("latency=90us", 100.0, 90.0),
        ("flops=0.5x", 40e6, 20e6),
        ("macs=20M", 40e6, 20e6),
        ("params=400K", 1e6, 4e5),
        ("latency=.5x", 10.0, 5.0),
    ],
)
def test_targets(text, full, target):
    budget = Budget.parse(text)
    assert budget.target(full) == pytest.approx(target)
    assert budget.ratio(full) == pytest.approx(target / full)


@pytest.mark.parametrize(
    ("text", "confidence"),
    [
        ("latency=0.7x", None),
        ("latency=0.6x@90%", 0.9),
        ("latency=1.8ms@95%", 0.95),
        ("latency=5us@99.5%", 0.995),
    ],
)
def test_confidences(text, confidence):
    budget = Budget.parse(text)
    assert budget.confidence == confidence
    assert budget.target(1000.0) == Budget.parse(text.partition("@")[0]).target(1000.0)
    assert ("@" in budget.text) == (confidence is not None)


@given(st.floats(1e-3, 1), st.booleans(), st.floats(50.001, 99.999))
def test_text_round_trip_at_a_confidence(value, relative, percent):
    budget = Budget.parse(f"latency={value:.12f}{'x' if relative else 'ms'}@{percent:.6f}%")
    assert budget.confidence == pytest.approx(percent / 100, abs=1e-8)
    assert Budget.parse(budget.text) == budget
    assert Budget.parse(budget.text).text == budget.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("latency=0.7x@", "not a budget"),
        ("latency=0.7x@95", "not a budget"),
        ("latency=0.7x@0.95", "not a budget"),
        ("latency=0.7x@50%", "above 50%"),
        ("latency=0.7x@5%", "above 50%"),
        ("latency=0.7x@100%", "below 100%"),
        ("latency=0.7x@120%", "below 100%"),
        ("macs=0.5x@90%", "takes no confidence"),
        ("params=400K@90%", "takes no confidence"),
    ],
)
def test_bad_confidences_say_how_to_write_one(text, said):
    with pytest.raises(BudgetError, match=said) as error:
        Budget.parse(text)
    assert "\n" not in str(error.value)


@given(st.sampled_from(METRICS), st.floats(1e-3, 1), st.booleans())
def test_text_round_trip(metric, value, relative):
    budget = Budget(metric, value, relative)
    assert Budget.parse(budget.text) == budget


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latency",
        "latency=",
        "latency=2x",
        "latency=0x",
        "speed=0.5x",
        "params=3ms",
        "latency=5",
        "macs=0M",
    ],
)
def test_bad_budgets_say_how_to_write_one(text):
    with pytest.raises(BudgetError) as error:
        Budget.parse(text)
    assert "\n" not in str(error.value)
    assert "latency" in str(error.value) or "takes" in str(error.value) or "ratio" in str(error.value)


def test_several_budgets_the_latency_first():
    found = parse_budgets("params=0.5x, latency=1.8ms@95%,flops=0.6x")
    assert [budget.metric for budget in found] == ["latency", "params", "macs"]
    assert parse_budgets(",".join(budget.text for budget in found)) == found
    assert parse_budgets("macs=0.5x") == (Budget.parse("macs=0.5x"),)
    with pytest.raises(BudgetError, match="bounds macs twice"):
        parse_budgets("flops=0.5x,macs=0.6x")
    with pytest.raises(BudgetError, match="not a budget: ''"):
        parse_budgets("latency=0.5x,")
