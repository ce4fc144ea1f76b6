"""The report as one self-contained web page."""

from __future__ import annotations

import json
from importlib.resources import files
from itertools import groupby
from typing import Any

from latency_model.fit_report.charts import charts
from latency_model.fit_report.contents import Contents, finite
from latency_model.fit_report.figures import headline
from latency_model.fit_report.stairs import LEAST_COUNTS
from latency_model.fit_report.text import interval_text, percent_text, us_text
from latency_model.plots.page import PAGE_CSS

__all__ = ["page", "script_json"]

_GROUPS = (
    ("size", "By measured latency", "rows in parts of equal count, the shortest first"),
    ("family", "By kernel family", "the families with the most rows"),
    ("alignment", "By alignment of channels", "the largest power of two that divides both channel counts"),
    ("kernel", "By kernel size", "the sizes with the most rows"),
)


def page(contents: Contents) -> str:
    """Return the report as HTML that needs nothing from the network: Plotly's script is inside.

    ``<script type="application/json" id="facts">`` holds every number. The same contents give the same text.
    """
    from jinja2 import Environment, select_autoescape
    from plotly.offline import get_plotlyjs

    environment = Environment(
        autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(us=us_text, percent=percent_text, joined=_joined)
    source = files("latency_model.fit_report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    drawn = charts(contents)
    facts = contents.facts
    worst = contents.worst
    return environment.from_string(source).render(
        contents=contents,
        facts=facts,
        confidence=f"{100 * facts.confidence:g} %",
        figures=[(of, list(lines)) for of, lines in groupby(headline(contents.summary), key=lambda f: f.of)],
        groups=[(name, title, about) for name, title, about in _GROUPS if name in drawn],
        least=LEAST_COUNTS,
        worst=list(
            zip(
                worst.shape, worst.family, worst.measured_us, worst.predicted_us, worst.error,
                worst.low_us, worst.high_us, strict=True,
            )
        ),
        networks=sorted(facts.networks, key=lambda n: (-abs(n.predicted_us / n.measured_us - 1), n.name)),
        interval=interval_text,
        css=PAGE_CSS,
        plotly=get_plotlyjs(),
        numbers=script_json(contents.to_json()),
        charts=script_json(drawn),
    )  # fmt: skip


def _joined(text: str) -> str:
    # A number and its unit stay on one line.
    return text.replace(" %", "\u00a0%")


def script_json(data: Any) -> str:
    """Return ``data`` as JSON that cannot end the script element around it; what is not finite is null."""
    text = json.dumps(finite(data), allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
