"""How many configurations are measured before their rows are sent."""

from __future__ import annotations

__all__ = ["Stretches"]

_FEWEST, _MOST = 16, 4096


class Stretches:
    """As many as take about ``seconds``, judged by those before; the first has a few packs of ``at_once``.

    Within a stretch rows are measured as often as the back end asks for, far apart in time: so a stretch is
    neither a moment, nor so long that much would have to be measured again when the device dies.
    """

    def __init__(self, seconds: float, *, at_once: int = 1) -> None:
        self._seconds, self._fewest = seconds, max(_FEWEST, 2 * at_once)
        self.size = 2 * self._fewest

    def took(self, count: int, seconds: float) -> None:
        """Take into account that ``count`` configurations took ``seconds``."""
        fit = round(count * self._seconds / max(seconds, 1e-3))
        # Not more than four times as many at once: the next ones may be much slower.
        self.size = max(self._fewest, min(_MOST, 4 * self.size, fit))
