"""Numbers as people read them, the same on the page, in the picture and in the terminal."""

from __future__ import annotations

import math

__all__ = ["counted", "interval_text", "percent_text", "shorten", "us_text"]


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun; ``many`` is the plural where it is not ``one`` and an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def us_text(latency_us: float) -> str:
    """Return a latency with about three significant digits, in µs, ms or s.

    >>> us_text(8.0), us_text(42.13), us_text(3069.0)
    ('8.00 µs', '42.1 µs', '3.07 ms')
    """
    value, unit = latency_us, "µs"
    for larger in ("ms", "s"):
        # What would be rounded to 1000 is one of the next unit.
        if value >= 999.5:
            value, unit = value / 1000, larger
    if value < 0.1:
        return f"{value:.2g} {unit}"
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {unit}"


def percent_text(part: float | None, *, signed: bool = False) -> str:
    """Return a part of 1 in percent with one digit, and a dash for None.

    >>> percent_text(0.0432), percent_text(0.0432, signed=True), percent_text(None)
    ('4.3 %', '+4.3 %', '-')
    """
    if part is None:
        return "-"
    # Adding zero makes a negative zero positive.
    value = round(100 * part, 1) + 0.0
    return f"{value:+.1f} %" if signed and value else f"{value:.1f} %"


def interval_text(low_us: float, high_us: float) -> str:
    """Return an interval in words; NaN ends are unknown, an infinite one is no bound."""
    if math.isnan(low_us):
        return "not known"
    if math.isinf(high_us):
        return f"{us_text(low_us)} or more"
    return f"{us_text(low_us)} to {us_text(high_us)}"


def shorten(text: str, length: int) -> str:
    """Return ``text`` in at most ``length`` characters; what is longer loses its middle."""
    if len(text) <= length:
        return text
    head = (length - 1) // 2
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"
