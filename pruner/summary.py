"""The end of a pruning run: accuracies on the test set, files that outlive us, and the report."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from latency_model.files import write_bytes
from latency_model.grid import ChannelGrid, efficient_counts
from profiler.onnx_export import export_onnx
from pruner.cost import macs_cost
from pruner.data import Splits
from pruner.plan import Plan
from pruner.proof import DEPLOYED, Proof
from pruner.report import GroupRow, RunReport, SiteRow, Staircase, write_report
from pruner.saved import save_pruned
from pruner.setting import Setting
from pruner.training import evaluate
from pruner.training.device import described, on

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pruner.graph import ChannelGraph

__all__ = ["finish"]

_PACKAGES = ("gharial", "torch", "onnx", "onnxruntime", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed as a distribution"
    return found


def _staircase(setting: Setting, counts: dict[str, int]) -> Staircase | None:
    """Return the staircase of one convolution: the dearest of those whose outputs were cut, else of all."""
    network = setting.latency.network
    wide = [site for site in network.sites if site.outputs.terms and not site.shape.depthwise]
    cut = [site for site in wide if 0 < site.outputs.count(counts) < site.shape.out_channels]
    if not wide:
        return None
    site = max(cut or wide, key=lambda s: setting.latency.site_value(s, network.groups))
    grid = ChannelGrid.from_table(setting.table, site.shape)
    line = grid.dense("raw")[site.shape.in_channels]
    measured = [
        count
        for count in range(1, site.shape.out_channels + 1)
        if site.shape.with_channels(site.shape.in_channels, count) in setting.table
    ]
    return Staircase(
        title=f"{site.name}: {site.shape.text}",
        axis="output channels",
        counts=tuple(measured),
        latency_us=tuple(float(line[count]) for count in measured),
        chosen=site.outputs.count(counts),
        efficient=efficient_counts(grid.dense("envelope")[site.shape.in_channels]),
    )


def _unmeasured(setting: Setting, counts: dict[str, int]) -> tuple[str, ...]:
    """Say when the prediction rests on padding: surgery does not pad, and odd counts can cost more."""
    shapes = [shape for _, shape in setting.latency.network.shapes(counts)]
    lacking = sum(shape not in setting.table for shape in shapes)
    if not lacking:
        return ()
    return (
        f"{lacking} of {len(shapes)} convolutions have channel counts that the table lacks; their predicted latency "
        "is that of the next larger measured counts, which can be too low",
    )


def _sites(setting: Setting, counts: dict[str, int]) -> tuple[SiteRow, ...]:
    """Return what each convolution of the original costs before and after, 0 once it is gone."""
    latency, whole = setting.latency, setting.whole or setting.latency
    sizes, left = dict(whole.network.groups), dict(latency.network.groups) | counts
    after = {site.name: latency.site_value(site, left) for site in latency.network.sites}
    return tuple(
        SiteRow(site.name, whole.site_value(site, sizes), after.get(site.name, 0.0))
        for site in whole.network.sites
    )


def _edited(setting: Setting) -> tuple[str, ...]:
    """Say what the method made of the network beside channels that went."""
    kinds = {"identity": "taken out", "block": "reduced to its shortcut", "grouped": "made block-diagonal"}
    made: dict[str, list[str]] = {}
    for edit in setting.edits:
        made.setdefault(kinds[edit.kind], []).append(edit.path)
    return tuple(f"{', '.join(paths)}: {what}" for what, paths in made.items())


def _halved(written: str) -> tuple[str, ...]:
    """Say when the accuracies are not those of the very file that was timed."""
    if written == "fp32":
        return ()
    return (f"the accuracies are of the weights in fp32; pruned.onnx has them in {written}",)


def _groups(graph: ChannelGraph, counts: dict[str, int]) -> tuple[GroupRow, ...]:
    """Return each group with its channels before and after, and the layers that write and read it."""
    writers: dict[str, list[str]] = {name: [] for name in graph.groups}
    readers: dict[str, list[str]] = {name: [] for name in graph.groups}
    for site in graph.sites:
        for side, axis in ((writers, site.outputs), (readers, site.inputs)):
            for name, _ in axis.terms:
                side[name].append(site.name)
    return tuple(
        GroupRow(name, group.size, counts[name], tuple(writers[name]), tuple(readers[name]))
        for name, group in graph.groups.items()
    )


def finish(
    setting: Setting,
    splits: Splits,
    original: nn.Module,
    small: nn.Module,
    plan: Plan,
    proof: Proof,
    out: Path,
    *,
    notes: tuple[str, ...],
    seconds: float,
    command: str,
    data: str,
    device: torch.device,
) -> RunReport:
    """Read the test set, write every file of the run into ``out``, the report last, and return the report.

    ``device`` is where training ran and accuracies are found.
    """
    latency, graph = setting.latency, setting.graph
    counts = plan.counts(graph)
    whole = setting.whole or latency
    with on(device, original, small):
        before, after = evaluate(original, splits.test), evaluate(small, splits.test)
    save_pruned(small, out, original=original, graph=graph, plan=plan)
    written = DEPLOYED[setting.precision]
    onnx = export_onnx(small, setting.input_shape, batch=setting.batch, precision=written)
    write_bytes(out / "pruned.onnx", onnx)
    predicted = latency.value(counts)
    bound = predicted * (1 + setting.margin(counts)) if setting.budget.confidence is not None else None
    environment = setting.table.environment
    report = RunReport(
        method=plan.method,
        device=environment.device,
        runtime=f"{environment.runtime} {environment.runtime_version}",
        budget=setting.budgets,
        latency_before_us=proof.before.latency_us,
        latency_after_us=proof.after.latency_us,
        latency_predicted_us=predicted,
        ratio_measured=proof.ratio,
        ratio_predicted=predicted / whole.full,
        accuracy_before=before,
        accuracy_after=after,
        params_before=sum(p.numel() for p in original.parameters()),
        params_after=sum(p.numel() for p in small.parameters()),
        macs_before=int(macs_cost(whole.network).full),
        macs_after=int(macs_cost(latency.network).value(counts)),
        seconds=seconds,
        model=setting.loaded.name,
        data=data,
        batch=setting.batch,
        precision=setting.precision,
        seed=plan.seed,
        trained_on=described(device),
        environment=environment.to_json(),
        versions=versions(),
        command=command,
        intervals={
            "latency_before_us": (proof.before.low_us, proof.before.high_us),
            "latency_after_us": (proof.after.low_us, proof.after.high_us),
        },
        groups=_groups(graph, counts),
        blocks_removed=plan.blocks,
        staircase=_staircase(setting, counts),
        sites=_sites(setting, counts),
        budget_target_us=(
            setting.budget.target(proof.before.latency_us) if setting.budget.metric == "latency" else None
        ),
        budget_confidence=setting.budget.confidence,
        latency_bound_us=bound,
        notes=(*notes, *_edited(setting), *_unmeasured(setting, counts), *_halved(written)),
    )
    write_report(report, out)
    return report
