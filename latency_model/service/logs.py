"""Logs as one JSON object a line: the time, the level, what happened, and the id of the request."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

__all__ = ["JsonLines", "set_up_logs"]

# What every record of the standard library has; anything else was given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


class JsonLines(logging.Formatter):
    """Formats records as JSON; what ``extra`` gave becomes fields of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of ``record``."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        said: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said.update((name, value) for name, value in vars(record).items() if name not in _USUAL)
        if record.exc_info:
            said["trace"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


def set_up_logs(*, level: str = "INFO", as_json: bool = True) -> None:
    """Let the service and its server write to the standard error stream; nothing else is changed."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonLines() if as_json else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    for name in ("gharial", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
    # The service logs requests itself, with their ids.
    logging.getLogger("uvicorn.access").disabled = True
