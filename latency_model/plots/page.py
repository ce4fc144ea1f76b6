"""A plotly figure as one page that needs no network and follows the reader's light or dark setting."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latency_model.files import write_text

__all__ = ["PAGE_CSS", "page_layout", "write_page"]

PAGE_CSS = """<style>
:root { color-scheme: light dark; --paper: #ffffff; --ink: #222222; --faint: #666666; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e6e6e6; --faint: #a0a0a0; } }
body { margin: 0; padding: 12px 16px; background: var(--paper); color: var(--ink); font: 14px sans-serif; }
h1 { font-size: 17px; margin: 0 0 4px; } p { color: var(--faint); font-size: 13px; margin: 0 0 2px; }
</style>"""
# Every axis of the figure is recoloured, however many there are.
_FOLLOW = """
const page = document.getElementById('{plot_id}');
const dark = window.matchMedia('(prefers-color-scheme: dark)');
function recolour() {
  const ink = dark.matches ? '#e6e6e6' : '#222222', lines = dark.matches ? '#33373d' : '#e6e6e6';
  const change = {'font.color': ink};
  for (const axis of Object.keys(page.layout).filter(name => /^[xy]axis/.test(name))) {
    change[axis + '.gridcolor'] = lines;
    change[axis + '.linecolor'] = lines;
    change[axis + '.zerolinecolor'] = lines;
  }
  Plotly.relayout(page, change);
}
dark.addEventListener('change', recolour);
recolour();
"""


def page_layout(**more: Any) -> dict[str, Any]:
    """Return the layout that every figure shares: no colours of its own behind the marks."""
    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        **more,
    }


def write_page(figure: Any, title: Sequence[str], notes: Sequence[str], path: Path) -> None:
    """Write ``figure`` with its title and notes to ``path``, the script that draws it included."""
    body = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        default_height="82vh",
        post_script=_FOLLOW,
        config={"displaylogo": False, "responsive": True},
    )
    heading = f"<h1>{html.escape(title[0])}</h1>"
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in (*title[1:], *notes))
    write_text(
        path,
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title[0])}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{PAGE_CSS}</head>\n'
        f"<body>{heading}{lines}{body}</body></html>\n",
    )
