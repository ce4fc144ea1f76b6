"""What the charts of the page share."""

from __future__ import annotations

import html
from typing import Any

__all__ = ["BAND", "GREY", "Chart", "label"]

Chart = dict[str, Any]

# These show on light and on dark paper.
GREY, BAND = "rgba(128,128,128,0.8)", "rgba(128,128,128,0.18)"


def label(text: str) -> str:
    """Return ``text`` as Plotly shows it unchanged: it reads its labels as a kind of HTML."""
    return html.escape(text, quote=False)
