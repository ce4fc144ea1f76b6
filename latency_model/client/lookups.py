"""Lookups of a server: one by one, as lists, and as columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from latency_model.client.answers import row_from_json
from latency_model.lookup import LookupResult, LookupRow
from latency_model.ops import Config

if TYPE_CHECKING:
    from latency_model.client.transport import Transport
    from latency_model.columns import ConvColumns

__all__ = ["columns", "many", "one"]

_LISTED = 20_000
_COLUMNS = 500_000
_JSON = {"Content-Type": "application/json"}
_ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


def one(transport: Transport, key: str, config: Config | str) -> LookupRow | None:
    """Return the row of a configuration, None for one that was not measured."""
    query = {"environment": key, "config": _text(config)}
    answer = transport.ask("GET", "/v1/lookup", query=query, accept=(404,))
    if answer.status == 404:
        transport.unless(answer, "not-measured")
        return None
    return transport.read(lambda body: row_from_json(json.loads(body)), answer.body)


def many(transport: Transport, key: str, configs: Sequence[Config | str]) -> list[LookupRow | None]:
    """Return the rows of configurations in their order, asked for in parts of 20,000."""
    found = list[LookupRow | None]()
    for start in range(0, len(configs), _LISTED):
        texts = [_text(config) for config in configs[start : start + _LISTED]]
        body = json.dumps({"environment": key, "configs": texts}).encode()
        listed = transport.json("POST", "/v1/lookup", body=body, headers=_JSON)
        rows = transport.read(lambda data: [row_from_json(each) for each in data], listed)
        transport.expect(len(rows), len(texts))
        found += rows
    return found


def columns(transport: Transport, key: str, asked: ConvColumns) -> LookupResult:
    """Return the latencies of convolutions, asked for in parts of 500,000 as Arrow."""
    import numpy as np

    from latency_model.lookup.arrow import columns_to_arrow, result_from_arrow

    found = list[LookupResult]()
    for start in range(0, max(1, len(asked)), _COLUMNS):
        part = asked.take(slice(start, start + _COLUMNS))
        answer = transport.ask(
            "POST",
            "/v1/lookup/arrow",
            query={"environment": key},
            body=columns_to_arrow(part),
            headers=_ARROW,
        )
        found.append(transport.read(result_from_arrow, answer.body))
        transport.expect(len(found[-1]), len(part))
    if len(found) == 1:
        return found[0]
    fields = ("latency_us", "low_us", "high_us", "found")
    return LookupResult(*(np.concatenate([getattr(part, name) for part in found]) for name in fields))


def _text(config: Config | str) -> str:
    return config if isinstance(config, str) else config.text
