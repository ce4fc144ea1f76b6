"""The list of methods, and the example of docs/methods.md as a reader would run it."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from latency_model.errors import InputError
from pruner.cli import app
from pruner.methods import method_names, open_method
from pruner.testing import NETWORKS

DOC = Path(__file__).resolve().parents[3] / "docs" / "methods.md"


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The files of the document in a folder that Python imports from."""
    files = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```", DOC.read_text(), re.DOTALL))
    assert set(files) == {"slimming.py", "test_slimming.py", "test_slimming_suite.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slimming", raising=False)
    yield tmp_path
    sys.modules.pop("slimming", None)


def test_the_example_of_the_document_passes_its_test(example, tmp_path):
    tests = runpy.run_path(str(example / "test_slimming.py"))
    tests["test_coupled_channels_are_ranked_by_the_sum_of_their_factors"](tmp_path / "state")


@pytest.mark.parametrize("network", list(NETWORKS))
def test_the_example_of_the_document_passes_the_suite(example, network, tmp_path):
    suite = runpy.run_path(str(example / "test_slimming_suite.py"))["TestSlimming"]()
    for number, name in enumerate(name for name in dir(suite) if name.startswith("test_")):
        if name != "test_goes_on_after_a_kill":
            wants = getattr(suite, name).__code__.co_varnames
            suite_arguments = (network, tmp_path / str(number)) if "tmp_path" in wants else (network,)
            getattr(suite, name)(*suite_arguments)


def test_a_method_is_opened_by_its_place(example, problem):
    made = problem()
    values = open_method("slimming:Slimming").values(made).check(made.graph, method="slimming")
    factors = made.model.norm.weight.detach().abs().numpy()
    assert np.allclose(values.channels["inner"], factors)
    assert (values.channels["stem"] == 1).all()


@pytest.mark.parametrize("name", ["nowhere:Slimming", "slimming:Absent", "slimming:", ":"])
def test_a_place_that_holds_no_method_is_named(example, name):
    with pytest.raises(InputError, match=f"the pruning method {name!r} cannot be opened"):
        open_method(name)


def test_the_document_and_the_command_list_all_methods():
    listed = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [row["name"] for row in listed] == list(method_names())
    assert {"gator", "l1", "l2", "fpgm", "taylor", "random", "uniform"} <= set(method_names())
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", DOC.read_text(), re.MULTILINE))
    for row in listed:
        assert row["summary"].endswith((".", "paper"))
        year, number = re.search(r"(\d{4}), arXiv (\d{4}\.\d{5})", row["paper"]).groups()
        assert number in rows[row["name"]]
        assert year in rows[row["name"]]
    shown = CliRunner().invoke(app, ["methods"], env={"COLUMNS": "200"}).stdout
    assert "1906.10771" in shown


@pytest.mark.parametrize("name", ["random", "l1", "l2", "fpgm", "taylor", "uniform"])
def test_every_control_gives_usable_values_and_changes_nothing(name, problem):
    made = problem()
    before = {key: tensor.clone() for key, tensor in made.model.state_dict().items()}
    method = open_method(name)
    assert (method.name, method.trains) == (name, False)
    first = method.values(made).check(made.graph, method=name).channels
    again = open_method(name).values(made).channels
    assert all(np.array_equal(first[group], again[group]) for group in first)
    assert all((before[key] == tensor).all() for key, tensor in made.model.state_dict().items())
