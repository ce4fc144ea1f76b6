"""What commands take from a server instead of a file: ``--server URL``, and the tables and models behind it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latency_model.errors import InputError
from latency_model.shipped import find_table
from latency_model.table import LatencyTable

if TYPE_CHECKING:
    from latency_model.client import ServedEnvironment
    from latency_model.estimate import Estimate
    from latency_model.model import LatencyModel

__all__ = [
    "OfEnvironment",
    "OfServer",
    "given_table",
    "listed",
    "no_file",
    "served_estimate",
    "served_model",
    "served_table",
]

OfServer = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Ask this server, which gharial serve runs, instead of reading a file; GHARIAL_TOKEN may hold a token.",
    ),
]
OfEnvironment = Annotated[
    str | None,
    typer.Option(
        "--environment",
        metavar="TEXT",
        help="With --server: the device, like 'h100 tensorrt', or the key that gharial tables list --server shows.",
        show_default="the only one",
    ),
]


def served_table(server: str, environment: str | None) -> LatencyTable:
    """Return a server's table of the environment that a user means."""
    from latency_model.client import Client

    with Client(server) as client:
        return client.table(environment)


def given_table(text: str, server: str | None) -> LatencyTable:
    """Return the table that a user means: a file or one that ships; with ``server`` one of that."""
    return LatencyTable.load(find_table(text)) if server is None else served_table(server, text)


def served_model(server: str, environment: str | None) -> LatencyModel:
    """Return the model of a server's table, as it is fitted there."""
    from latency_model.model import LatencyModel

    return LatencyModel.fit([served_table(server, environment)])


def served_estimate(server: str, model: str, environment: str | None, **asked: Any) -> Estimate:
    """Return what a server says of a network; ``asked`` as ``Client.estimate`` takes it."""
    from latency_model.client import Client

    with Client(server) as client:
        return client.estimate(model, environment, **asked)


def listed(server: str) -> list[tuple[ServedEnvironment, dict[str, Any]]]:
    """Return a server's environments, each with what is printed of it as JSON."""
    from latency_model.client import Client

    with Client(server) as client:
        found = client.environments()
        return [(one, _json(one, f"{client.url}/v1/environments/{one.key}/table")) for one in found]


def _json(one: ServedEnvironment, url: str) -> dict[str, Any]:
    return {
        "name": one.key,
        "path": url,
        "environment": one.environment.to_json(),
        "rows": one.convs,
        "ops": one.ops,
        "network_count": one.networks,
        "failures": one.failures,
        "revision": one.revision,
    }


def no_file(server: str | None, environment: str | None, *files: str | Path | None) -> None:
    """Raise ``InputError`` where a server and a file are given, or an environment without a server."""
    if server is None and environment is not None:
        raise InputError("--environment chooses among the tables of a server; give --server URL as well")
    if server is not None and any(file is not None for file in files):
        raise InputError("rows come from one place; give --server URL or a file, not both")
