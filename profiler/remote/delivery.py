"""Bringing rows to the server: under their lease, late when it is over, set aside when they are refused."""

from __future__ import annotations

from collections.abc import Callable

from profiler.remote.outbox import Outbox, Part
from profiler.remote.patience import Patience
from profiler.remote.server import AwayError, OverError, RefusedError, Server

__all__ = ["Delivery"]

_FORBIDDEN = (401, 403)


class Delivery:
    """Sends the parts of an outbox in order, and forgets each one when the server has it."""

    def __init__(
        self, server: Server, outbox: Outbox, patience: Patience, *, tell: Callable[[str], None]
    ) -> None:
        self._server, self._outbox, self._patience, self._tell = server, outbox, patience, tell

    def earlier(self) -> None:
        """Send what an earlier worker left behind, and say of its leases that it did not finish them."""
        self._outbox.recover()
        parts = self._outbox.parts()
        self.wait()
        for lease in dict.fromkeys(part.lease for part in parts):
            try:
                self._patience.ask(
                    lambda lease=lease: self._server.fail(lease, "its worker ended in the middle of it")  # type: ignore[misc]
                )
            except OverError:
                pass  # somebody else has the job already
            except RefusedError as refused:
                if refused.status in _FORBIDDEN:
                    raise

    def offer(self) -> str:
        """Send what can be sent now; return the state of the job of the last part, ``away`` if the server is."""
        return self._send(patient=False)

    def wait(self) -> str:
        """Send everything, however long the server is away; raises ``AwayError`` only when it is time to end."""
        return self._send(patient=True)

    def _send(self, *, patient: bool) -> str:
        state = "leased"
        for part in self._outbox.parts():
            if not part.table.is_file():
                part.remove()
                continue
            data = part.table.read_bytes()
            try:
                state = (
                    self._patience.ask(lambda data=data, part=part: self._post(part, data))  # type: ignore[misc]
                    if patient
                    else self._post(part, data)
                )
            except AwayError:
                if patient:
                    raise
                return "away"
            except RefusedError as refused:
                if refused.status in _FORBIDDEN:
                    raise
                self._tell(f"{refused} (the rows are kept in {part.set_aside()})")
                continue
            part.remove()
        return state

    def _post(self, part: Part, data: bytes) -> str:
        try:
            return self._server.post_rows(part.lease, data)
        except OverError:
            # The job is another's, but a latency is none the worse for that.
            self._server.post_late(data)
            return "lost"
