"""report.json, report.html and report.png: written together, the JSON read back."""

from __future__ import annotations

from pathlib import Path

from latency_model.files import read_json, write_atomic, write_json, write_text
from pruner.report.run_report import RunReport

__all__ = ["load_report", "write_report"]


def write_report(report: RunReport, out_dir: Path) -> None:
    """Write ``report.json``, ``report.html`` (self-contained, about 5 MB) and ``report.png`` to ``out_dir``.

    Where the layers of the groups are known, ``graph.png`` draws them. Each file is replaced whole or not at all.
    The JSON comes last: where it is, the others are too.
    """
    from pruner.report.hypergraph import hypergraph_picture
    from pruner.report.page import page
    from pruner.report.picture import picture

    out_dir = Path(out_dir)
    write_text(out_dir / "report.html", page(report))
    write_atomic(out_dir / "report.png", lambda target: picture(report, target))
    if any(group.writers or group.readers for group in report.groups):
        write_atomic(out_dir / "graph.png", lambda target: hypergraph_picture(report, target))
    write_json(out_dir / "report.json", report.to_json())


def load_report(out_dir: Path) -> RunReport:
    """Return the report that ``write_report`` wrote to ``out_dir``; ``InputError`` if missing or damaged."""
    return RunReport.from_json(read_json(Path(out_dir) / "report.json"))
