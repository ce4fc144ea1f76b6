"""What is sent for an estimate: an ONNX file without its weights, or a network that was harvested here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latency_model.errors import InputError, ModelError
from latency_model.network import NetworkCost
from latency_model.network_json import network_to_json

if TYPE_CHECKING:
    from latency_model.client.transport import Answer, Transport

__all__ = ["estimated", "skeleton"]

_PART = 1 << 20
_LONGEST = 200
_OCTETS, _JSON = {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/json"}


def estimated(
    transport: Transport,
    model: NetworkCost | Path | str,
    *,
    environment: str,
    batch: int | None,
    precision: str | None,
    counts: Mapping[str, int] | None,
    asked: Mapping[str, Any],
) -> Answer:
    """Return the server's answer for a network, an ONNX file, or the name of a model, which is harvested here.

    What the server cannot read of an ONNX file (one with tensors in other files, or too large) is read here as well.
    """
    query = {"environment": environment, **asked}
    if isinstance(model, NetworkCost):
        if batch is not None or precision is not None:
            raise InputError("a harvested network has its batch and its precision; leave them out")
        return _network(transport, model, query, None if counts is None else model.counts(counts))
    if counts is not None:
        raise InputError("counts name the channel groups of a harvested network; harvest the model first")
    text = str(model)
    query["name"] = text[-_LONGEST:]
    if text.lower().endswith(".onnx"):
        try:
            given = {**query, "batch": batch, "precision": precision}
            return transport.ask(
                "POST", "/v1/estimate", query=given, body=skeleton(Path(model)), headers=_OCTETS
            )
        except ModelError:
            pass
    return _network(transport, _harvested(transport, text, environment, batch, precision), query)


def _network(
    transport: Transport,
    network: NetworkCost,
    query: Mapping[str, Any],
    counts: Mapping[str, int] | None = None,
) -> Answer:
    data = network_to_json(network)
    sent = data if counts is None else {"network": data, "counts": dict(counts)}
    body = json.dumps(sent, separators=(",", ":")).encode()
    query = {"name": network.name[-_LONGEST:], **query}
    return transport.ask("POST", "/v1/estimate/network", query=query, body=body, headers=_JSON)


def _harvested(
    transport: Transport, model: str, environment: str, batch: int | None, precision: str | None
) -> NetworkCost:
    """Return the network as ``gharial estimate`` harvests it for the table of ``environment``."""
    from latency_model.harvest import harvest
    from latency_model.zoo import load_model

    loaded = load_model(model)
    fit = transport.json("GET", f"/v1/environments/{environment}/fit", query={"wait": True})
    layout, known = transport.read(
        lambda data: (str(data["layout"]), list(map(str, data["precisions"]))), fit
    )
    if precision is None and loaded.onnx_path is None:
        if len(known) != 1:
            raise InputError(f"the table has rows of {', '.join(known)}; choose with --precision")
        precision = known[0]
    return harvest(loaded, batch=batch, precision=precision, layout=layout)


def skeleton(path: Path) -> bytes:
    """Return an ONNX file without its weights, which no latency depends on; ``ModelError`` for what is none."""
    from latency_model.harvest.onnx_skeleton import skeleton_of

    try:
        with path.open("rb") as file:
            return skeleton_of(iter(lambda: file.read(_PART), b""))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
