"""The service of a team, asked from Python: the answers are those that the same tables give locally, bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from latency_model.client import lookups
from latency_model.client.answers import Staircase, estimate_from_json
from latency_model.client.environments import KEY, ServedEnvironment, choose
from latency_model.client.jobs import Jobs
from latency_model.client.token import plain_allowed
from latency_model.environment import Environment
from latency_model.errors import DependencyError, InputError
from latency_model.lookup import LookupResult, LookupRow
from latency_model.ops import Config

if TYPE_CHECKING:
    from latency_model.columns import ConvColumns
    from latency_model.estimate import Estimate
    from latency_model.network import NetworkCost
    from latency_model.table import LatencyTable

__all__ = ["Client"]

_TOKEN = "GHARIAL_TOKEN"
Which = ServedEnvironment | Environment | str | None


class Client:
    """Talks to the service at ``url``, as ``http://host:8765``; a context manager that threads may share.

    ``token`` is by default that of the variable GHARIAL_TOKEN. It goes to this server alone, wherever that redirects
    to, and over plain HTTP only to this machine, unless ``plain_token`` or GHARIAL_PLAIN_TOKEN=1 allows it.
    ``timeout_s`` is for one answer. A request that finds no server is repeated ``retries`` times, each time after a
    longer wait; while a server asks to come back later it is repeated for up to ``patience_s``. Tables are kept in
    ``cache``, by default a folder of this user's cache.

    An ``environment`` is given as its key, as the name of its device, as words that only one environment of the server
    has ("h100 tensorrt"), or not at all where there is one only. What names none or several raises ``TableError``,
    which lists them. What the server refuses raises what the same mistake raises locally, with the server's sentence;
    ``ServerError`` is a server that does not answer, or whose answer makes no sense. ``DependencyError`` without httpx.

    >>> with Client("http://localhost:8765") as client:  # doctest: +SKIP
    ...     client.estimate("resnet50.onnx", environment="h100").latency_us
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout_s: float = 120.0,
        retries: int = 3,
        patience_s: float = 300.0,
        plain_token: bool | None = None,
        cache: Path | None = None,
    ) -> None:
        try:
            from latency_model.client.transport import Transport
        except ModuleNotFoundError as error:
            raise DependencyError(
                f"asking a server needs {error.name}; install it with: pip install 'gharial[client]'"
            ) from error
        self._transport = Transport(
            url,
            token=os.environ.get(_TOKEN) if token is None else token,
            timeout_s=timeout_s,
            retries=retries,
            patience_s=patience_s,
            plain_token=plain_allowed() if plain_token is None else plain_token,
        )
        self._cache = cache
        self._keys: dict[str | None, str] = {}
        self.jobs = Jobs(self._transport)

    @property
    def url(self) -> str:
        """The server's address."""
        return self._transport.url

    def environments(self) -> list[ServedEnvironment]:
        """Return every environment that the server has rows of."""
        listed = self._transport.json("GET", "/v1/environments")
        return self._transport.read(lambda data: [ServedEnvironment.from_json(one) for one in data], listed)

    def environment(self, text: str | None = None) -> ServedEnvironment:
        """Return the environment that ``text`` names; see the class."""
        return choose(self.environments(), text, where=self.url)

    def _key(self, which: Which) -> str:
        if isinstance(which, ServedEnvironment | Environment):
            return which.key
        if which is not None and KEY.fullmatch(which):
            return which
        if which not in self._keys:
            self._keys[which] = self.environment(which).key
        return self._keys[which]

    def lookup(self, config: Config | str, environment: Which = None) -> LookupRow | None:
        """Return the latency of a convolution or an operator with its 95 % interval, None if it was not measured."""
        return lookups.one(self._transport, self._key(environment), config)

    def lookup_many(
        self, configs: Sequence[Config | str], environment: Which = None
    ) -> list[LookupRow | None]:
        """Return what ``lookup`` does of each, in order, in few requests; for millions there is ``lookup_columns``."""
        return lookups.many(self._transport, self._key(environment), configs)

    def lookup_columns(self, columns: ConvColumns, environment: Which = None) -> LookupResult:
        """Return the latencies of many convolutions, as ``LookupTable.lookup`` does; NaN where nothing was measured."""
        return lookups.columns(self._transport, self._key(environment), columns)

    def estimate(
        self,
        model: NetworkCost | Path | str,
        environment: Which = None,
        *,
        batch: int | None = None,
        precision: str | None = None,
        counts: Mapping[str, int] | None = None,
        confidence: float = 0.9,
        family: str | None = None,
    ) -> Estimate:
        """Return the latency of a network: an ONNX file, the name of a model, or what ``harvest`` returned.

        The numbers are those of ``LatencyModel.estimate`` on the server's table, and the flags those of ``gharial
        estimate``. A model is harvested here; of an ONNX file all but the weights is sent. ``batch`` and
        ``precision`` are by default those of the file, else 1 and that of the table; ``counts`` are of the channel
        groups of a harvested network.
        """
        answer = self._estimated(model, environment, batch, precision, counts, confidence, family)
        return self._transport.read(lambda body: estimate_from_json(json.loads(body)), answer)

    def explain(
        self,
        model: NetworkCost | Path | str,
        environment: Which = None,
        *,
        batch: int | None = None,
        precision: str | None = None,
        counts: Mapping[str, int] | None = None,
        confidence: float = 0.9,
        family: str | None = None,
    ) -> dict[str, Any]:
        """Return what ``gharial explain --json`` prints of a network: the estimate, and what each part rests on."""
        answer = self._estimated(
            model, environment, batch, precision, counts, confidence, family, explain=True
        )
        return self._transport.read(lambda body: dict(json.loads(body)), answer)

    def _estimated(
        self,
        model: NetworkCost | Path | str,
        environment: Which,
        batch: int | None,
        precision: str | None,
        counts: Mapping[str, int] | None,
        confidence: float,
        family: str | None,
        **more: Any,
    ) -> bytes:
        from latency_model.client.estimates import estimated

        if not 0 < confidence < 1:
            raise InputError(f"a confidence lies between 0 and 1, not at {confidence}; use 0.9 for 90 %")
        asked = {"confidence": repr(float(confidence)), "family": family, **more}
        return estimated(
            self._transport,
            model,
            environment=self._key(environment),
            batch=batch,
            precision=precision,
            counts=counts,
            asked=asked,
        ).body

    def staircase(
        self, config: Config | str, environment: Which = None, *, axis: Literal["out", "in"] = "out"
    ) -> Staircase:
        """Return the measured latencies of a convolution's site over one channel count, the other as it is."""
        query = {
            "environment": self._key(environment),
            "config": config if isinstance(config, str) else config.text,
            "axis": axis,
        }
        return self._transport.read(
            Staircase.from_json, self._transport.json("GET", "/v1/staircase", query=query)
        )

    def fit(self, environment: Which = None, *, wait: bool = False) -> dict[str, Any]:
        """Return what the estimates of an environment rest on; with ``wait`` it is fitted first if need be."""
        path = f"/v1/environments/{self._key(environment)}/fit"
        return self._transport.read(dict, self._transport.json("GET", path, query={"wait": wait}))

    def table(self, environment: Which = None) -> LatencyTable:
        """Return the whole table of an environment; sent only when it has changed since it was last asked for."""
        from latency_model.client.tables import cache_folder, load_table

        return load_table(self._transport, self._key(environment), self._cache or cache_folder())

    def export(
        self,
        path: Path | str,
        environment: Which = None,
        *,
        format: Literal["csv", "parquet", "json"] | None = None,
    ) -> Path:
        """Write the rows to ``path`` as they come, as ``gharial tables export`` does, and return ``path``.

        ``format`` is by default its ending. The file is whole, or as it was before.
        """
        from latency_model.client.tables import export

        return export(self._transport, self._key(environment), Path(path), format)

    def import_table(self, table: LatencyTable | Path | str, *, source: str | None = None) -> dict[str, Any]:
        """Send a table, or the file of one, and return what it changed; of two rows the later measured one stays.

        Takes a token with the scope rows:write. Sending it twice changes nothing the second time.
        """
        from latency_model.client.tables import import_table

        return import_table(self._transport, table, source)

    def close(self) -> None:
        """End the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
