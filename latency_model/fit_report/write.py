"""report.html and report.png, written together."""

from __future__ import annotations

from pathlib import Path

from latency_model.files import write_atomic, write_text
from latency_model.fit_report.contents import Contents
from latency_model.fit_report.facts import FitFacts

__all__ = ["write_report"]


def write_report(facts: FitFacts, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` (self-contained, about 6 MB) and ``report.png`` to ``folder``; return their paths.

    Each file is replaced whole or not at all; the same facts give the same bytes. Raises ``InputError`` where
    ``folder`` cannot be written.
    """
    from latency_model.fit_report.page import page
    from latency_model.fit_report.picture import picture

    folder = Path(folder)
    contents = Contents.of(facts)
    html, png = folder / "report.html", folder / "report.png"
    write_text(html, page(contents))
    write_atomic(png, lambda target: picture(contents, target))
    return html, png
