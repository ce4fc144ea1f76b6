"""Edits of a network's structure, alone and through a whole run."""

import copy

import pytest
import torch
from torch import nn

from latency_model.errors import InputError
from pruner.edits import Edit
from pruner.graph import trace
from pruner.methods import Values, open_method
from pruner.oracle import check
from pruner.plan import Plan
from pruner.rewriting import apply_edits, load_edited, load_edits, save_edited
from pruner.saved import SPEC, WEIGHTS, rebuild, save_pruned
from pruner.surgery import remove
from pruner.testing import MethodSuite
from pruner.testing.networks import Residual
from pruner.testing.suite import setting_of

INPUTS = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
# The first residual block without its second convolution, and without the activation that came before it.
EDITS = (Edit("stages.1.first", "identity"), Edit("stages.1.norm", "identity"))


class Shorter:
    """Takes two layers of the residual network out, where the network has them, and ranks as l1 does."""

    name = "shorter"
    paper = "arXiv 0000.00000"
    needs_data = False
    trains = False

    def rewrite(self, problem):
        fits = "stages.1.first" in dict(problem.model.named_modules())
        edits = EDITS if fits else ()
        if edits:
            assert problem.price_after(edits) < problem.cost.full
            assert problem.price_after(()) == pytest.approx(problem.cost.full)
        apply_edits(problem.model, edits)
        return edits

    def values(self, problem) -> Values:
        return open_method("l1").values(problem)


class TestConformance(MethodSuite):
    def open(self):
        return Shorter()


def test_identity_takes_a_module_out():
    model = Residual().eval()
    before = model.stages[1].first
    apply_edits(model, [Edit("stages.1.first", "identity")])
    assert isinstance(model.stages[1].first, nn.Identity)
    assert not isinstance(before, nn.Identity)
    assert not model.stages[1].first.training


def test_a_block_becomes_its_shortcut():
    torch.manual_seed(0)
    model = Residual().eval()
    block = trace(model, INPUTS).block("stages.1")
    expected = remove(model, trace(model, INPUTS), {}, blocks=["stages.1"])
    apply_edits(model, [Edit.from_json(Edit.of_block(block).to_json())])
    assert torch.equal(model(INPUTS), expected(INPUTS))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_keeps_the_diagonal_blocks(groups, bias):
    torch.manual_seed(groups)
    model = nn.Sequential(nn.Linear(8, 12, bias=bias))
    mask = torch.block_diag(*[torch.ones(12 // groups, 8 // groups)] * groups)
    x = torch.randn(5, 8)
    expected = nn.functional.linear(x, model[0].weight * mask, model[0].bias)
    apply_edits(model, [Edit("0", "grouped", {"groups": groups})])
    torch.testing.assert_close(model(x), expected)
    assert sum(p.numel() for p in model.parameters()) == 96 // groups + (12 if bias else 0)


@pytest.mark.parametrize(
    "edit",
    [
        Edit("nowhere", "identity"),
        Edit("head", "grouped", {"groups": 3}),
        Edit("head", "grouped", {}),
        Edit("stem", "grouped", {"groups": 2}),
        Edit("stages.1", "block", {"name": "stages.1"}),
    ],
)
def test_an_edit_that_does_not_fit_is_named(edit):
    with pytest.raises(InputError, match=f"{edit.kind} of {edit.path}"):
        apply_edits(Residual(), [edit])


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="known are block, grouped, identity"):
        Edit("stem", "melt")


def test_edits_travel_in_plan_and_specification(tmp_path):
    torch.manual_seed(1)
    original = Residual().eval()
    edited = copy.deepcopy(original)
    apply_edits(edited, EDITS)
    graph = trace(edited, INPUTS)
    plan = Plan(graph.fingerprint, {"stem.0": (1, 2)}, edits=EDITS)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert check(edited, graph, plan, inputs=INPUTS).ok
    small = remove(edited, graph, plan.keep(graph)).eval()
    save_pruned(small, tmp_path, original=original, graph=graph, plan=plan)
    again = rebuild(Residual, tmp_path / SPEC, tmp_path / WEIGHTS).eval()
    assert torch.equal(again(INPUTS), small(INPUTS))


def test_an_edited_network_is_kept_and_read_back(tmp_path):
    model = Residual()
    apply_edits(model, EDITS)
    save_edited(model, EDITS, tmp_path / "edited.safetensors")
    other = Residual()
    assert load_edited(other, tmp_path / "edited.safetensors") == EDITS
    assert load_edits(tmp_path / "edited.safetensors") == EDITS
    expected, found = model.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_budgets_are_shares_of_the_network_before_its_edits():
    setting = setting_of("residual", budget="macs=0.6x")
    before = setting.cost.full
    apply_edits(setting.module, EDITS)
    after = setting.rewritten(EDITS)
    assert after.cost.full < before
    assert after.limit == setting.limit == pytest.approx(0.6 * before)
    assert after.ratio == pytest.approx(0.6 * before / after.cost.full)
    assert set(after.graph.groups) < set(setting.graph.groups)
    assert after.before(after.budget) == before
