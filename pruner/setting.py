"""What a pruning run stands on: model, weights, channel graph, table, cost and budget, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from latency_model.errors import BudgetError, InputError, ModelError, TableError
from latency_model.harvest import harvest
from latency_model.model import LatencyModel
from latency_model.shipped import find_table
from latency_model.table import LatencyTable
from latency_model.zoo import LoadedModel, load_model, load_weights
from pruner.allocate import choices, minimum
from pruner.budget import Budget, parse_budgets
from pruner.cost import Cost, latency_cost, macs_cost, params_cost
from pruner.edits import Edit
from pruner.graph import ChannelGraph, trace
from pruner.proof import DEPLOYED

if TYPE_CHECKING:
    from torch import nn

__all__ = ["FLOOR", "Setting", "prepare"]

# No group outside a removed block keeps less than this share: a stage must not collapse to a thread.
FLOOR = 0.125


@dataclass(frozen=True)
class Setting:
    """A checked starting point: everything a method, the allocator and the proof need.

    ``budget`` is the one that is proven, on the clock if it bounds the latency; ``others`` hold beside it.
    ``precision`` is what the network is deployed in: exported, looked up in the table and timed.

    ``edits`` are what a method has made of the network beside channels that go: graph and costs are of the network
    after them, and ``whole`` is the latency before, None where there are none. Budgets are shares of the network
    before.
    """

    loaded: LoadedModel
    module: nn.Module
    graph: ChannelGraph
    table: LatencyTable
    latency: Cost
    budget: Budget
    batch: int
    model: LatencyModel
    others: tuple[Budget, ...] = ()
    precision: str = "fp32"
    edits: tuple[Edit, ...] = ()
    whole: Cost | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one input."""
        channels, height, width = self.loaded.input_shape
        return channels, height, width

    @property
    def cost(self) -> Cost:
        """The cost that the budget bounds."""
        return _cost_of(self.budget, self.latency)

    @property
    def limit(self) -> float:
        """The bound on the cost, in its unit."""
        return self.budget.target(self.before(self.budget))

    @property
    def other_limits(self) -> list[tuple[Cost, float]]:
        """The costs that the other budgets bound, and their bounds."""
        return [
            (_cost_of(budget, self.latency), budget.target(self.before(budget))) for budget in self.others
        ]

    def before(self, budget: Budget) -> float:
        """Return what the network cost in the metric of ``budget`` before it was edited."""
        return _cost_of(budget, self.whole or self.latency).full

    @property
    def budgets(self) -> str:
        """All budgets as text; ``parse_budgets`` reads it back."""
        return ",".join(budget.text for budget in (self.budget, *self.others))

    def rewritten(self, edits: Sequence[Edit]) -> Setting:
        """Return the setting of the network as it is now, after a method has made ``edits`` to the module.

        Raises ``TableError`` where a convolution of it is in no table, ``BudgetError`` where it cannot be pruned to
        its budgets.
        """
        if not edits:
            return self
        graph, latency = _traced(self.loaded, self.module, self.model, self.batch, self.precision)
        setting = replace(
            self, graph=graph, latency=latency, edits=tuple(edits), whole=self.whole or self.latency
        )
        _check_floor(setting)
        return setting

    def margin(self, counts: Mapping[str, int]) -> float:
        """Return how far the latency may lie above its prediction at the budget's confidence, relative.

        0 for a budget without one. One side of the model's interval for the network at ``counts``. A relative
        budget takes the same margin, with the whole network at its prediction: errors that both networks share
        cancel in the ratio, so this is more than is needed wherever they correlate by more than a half.
        """
        sure = self.budget.confidence
        if sure is None:
            return 0.0
        # Both sides together miss twice as often as one.
        estimate = self.model.estimate(self.latency.network, counts, confidence=2 * sure - 1)
        return estimate.high_us / estimate.latency_us - 1

    @property
    def ratio(self) -> float:
        """The share of the full cost that a prediction may have, with the margin of the whole network.

        Above 1 where edits alone have met the budget.
        """
        return self.limit / self.cost.full / (1 + self.margin({}))

    @property
    def macs_per_image(self) -> float:
        """Multiply-accumulates of the convolutions for one image."""
        return macs_cost(self.latency.network).full / self.batch

    @cached_property
    def stairs(self) -> Cost | None:
        """The cost whose efficient counts are chosen from where the budgets do not bound it: the latency.

        None where a budget bounds the latency, and where one cannot be reached with such counts alone.
        """
        bounds = [(self.cost, self.ratio * self.cost.full), *self.other_limits]
        if any(cost.metric == self.latency.metric for cost, _ in bounds):
            return None
        for cost, limit in bounds:
            if minimum([cost], self.blocks, floors=self.floors, stairs=self.latency) > limit:
                return None
        return self.latency

    @property
    def choices(self) -> dict[str, tuple[int, ...]]:
        """The channel counts that the allocator considers, per group."""
        costs = [self.cost, *(cost for cost, _ in self.other_limits)]
        return choices(costs, self.blocks, floors=self.floors, stairs=self.stairs)

    @property
    def blocks(self) -> dict[str, tuple[str, ...]]:
        """Groups inside each removable block."""
        return {block.name: block.groups for block in self.graph.blocks if block.groups}

    @property
    def floors(self) -> dict[str, int]:
        """The least number of channels a group keeps while its block stays."""
        return {name: max(1, round(FLOOR * group.size)) for name, group in self.graph.groups.items()}


def _precision_of(table: LatencyTable, wanted: str | None) -> str:
    """Return the precision to deploy in: ``wanted``, or fp32, or the only one that the table has rows of."""
    found = sorted({shape.precision for shape in table})
    if not found:
        raise TableError("the table has no rows; fill it with gharial profile MODEL --out TABLE")
    usual = "fp32" if "fp32" in found else found[0]
    if wanted is None and usual != "fp32" and len(found) > 1:
        raise InputError(f"the table has rows of {', '.join(found)}; choose one with --precision")
    chosen = usual if wanted is None else wanted
    if chosen not in DEPLOYED:
        what = f"the table has rows of {chosen} only, and networks" if wanted is None else "networks"
        raise InputError(
            f"{what} are not deployed in {chosen}; profile and prune with --precision {' or '.join(DEPLOYED)}"
        )
    if chosen not in found:
        raise TableError(
            f"the table has no {chosen} rows, only of {', '.join(found)}; profile with --precision {chosen}, or prune "
            "in another precision"
        )
    return chosen


def _batch_of(table: LatencyTable, wanted: int | None, precision: str) -> int:
    """Return the batch to prune for: ``wanted``, or the smallest that the table has rows of."""
    batches = sorted({shape.batch for shape in table if shape.precision == precision})
    if wanted is None:
        return batches[0]
    if wanted not in batches:
        known = ", ".join(map(str, batches))
        raise TableError(
            f"the table has no {precision} rows of batch {wanted}, only of {known}; profile with --batch {wanted}"
        )
    return wanted


def prepare(
    model: str,
    *,
    weights: Path | None,
    table: Path | LatencyTable,
    budget: str,
    batch: int | None = None,
    precision: str | None = None,
    seed: int = 0,
) -> Setting:
    """Load and check everything a run needs, without training anything.

    Without ``batch`` it is the table's smallest; without ``precision`` fp32, or the only one that the table has.

    Raises a subclass of ``InputError`` that names what is missing: ``BudgetError`` says the reachable
    minimum when the budget lies below it.
    """
    wish, *others = parse_budgets(budget)
    rows = table if isinstance(table, LatencyTable) else LatencyTable.load(find_table(table))
    torch.manual_seed(seed)
    loaded = load_model(model)
    if loaded.module is None:
        raise ModelError(
            f"{model} is an ONNX file: it can be profiled and estimated, but only a torch model is pruned"
        )
    if weights is not None:
        load_weights(loaded.module, weights)
    module = loaded.module.eval()
    chosen = _precision_of(rows, precision)
    count = _batch_of(rows, batch, chosen)
    fitted = LatencyModel.fit([rows], origin="TABLE" if isinstance(table, LatencyTable) else str(table))
    graph, latency = _traced(loaded, module, fitted, count, chosen)
    setting = Setting(loaded, module, graph, rows, latency, wish, count, fitted, tuple(others), chosen)
    _check_reachable(setting)
    return setting


def _traced(
    loaded: LoadedModel, module: nn.Module, model: LatencyModel, batch: int, precision: str
) -> tuple[ChannelGraph, Cost]:
    """Return the channel graph of ``module`` and its latency as a function of channel counts."""
    graph = trace(module, torch.zeros(2, *loaded.input_shape))
    network = harvest(replace(loaded, module=module), batch=batch, precision=precision).regroup(
        graph.axes(), {name: group.size for name, group in graph.groups.items()}
    )
    return graph, latency_cost(model, network)


def _cost_of(budget: Budget, latency: Cost) -> Cost:
    """Return the cost that ``budget`` bounds, of the network that ``latency`` is of."""
    if budget.metric == "latency":
        return latency
    return {"macs": macs_cost, "params": params_cost}[budget.metric](latency.network)


def _check_reachable(setting: Setting) -> None:
    cost, sure = setting.cost, setting.budget.confidence
    margin = 1 + setting.margin({})
    unit = " us" if cost.metric == "latency" else ""
    at = "" if sure is None else f", with the margin of {margin - 1:.1%} that the budget's confidence takes"
    if setting.limit / cost.full > margin:
        raise BudgetError(
            f"{setting.loaded.name} already meets the budget {setting.budget}: its {cost.metric} on this table is "
            f"{margin * cost.full:.6g}{unit}{at}; ask for less"
        )
    _check_floor(setting)


def _check_floor(setting: Setting) -> None:
    cost, full, margin = setting.cost, setting.before(setting.budget), 1 + setting.margin({})
    unit, sure = " us" if cost.metric == "latency" else "", setting.budget.confidence
    at = "" if sure is None else f", with the margin of {margin - 1:.1%} that the budget's confidence takes"
    least = margin * minimum([cost], setting.blocks, floors=setting.floors)
    if least > setting.limit:
        raise BudgetError(
            f"the budget {setting.budget} is below what {setting.loaded.name} can reach on this table: the least is "
            f"{least / full:.3f}x ({least:.6g}{unit} of {full:.6g}{unit}{at}); ask for that or more"
        )
    for budget, (other, limit) in zip(setting.others, setting.other_limits, strict=True):
        if (least := minimum([other], setting.blocks, floors=setting.floors)) > limit:
            raise BudgetError(
                f"{limit:.6g} {other.metric} are below what {setting.loaded.name} can reach: the least is {least:.6g} "
                f"({least / setting.before(budget):.3f}x); ask for that or more"
            )


def kept_channels(
    setting: Setting, values: Mapping[str, object], counts: Mapping[str, int]
) -> dict[str, list[int]]:
    """Return the most valuable channels of each group, as many as ``counts`` grants, in ascending order."""
    kept = {}
    for name in setting.graph.groups:
        worth = torch.as_tensor(values[name])
        best = torch.argsort(worth, descending=True, stable=True)[: counts[name]]
        kept[name] = sorted(best.tolist())
    return kept
