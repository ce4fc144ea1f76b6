"""What `gharial tables` does with a server's tables alone: list them, and download one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from latency_model import console
from latency_model.served import listed, served_table

__all__ = ["download", "list_served"]


def list_served(server: str, *, json: bool) -> None:
    """Print the environments of a server."""
    found = listed(server)
    if json:
        console.print_json([said for _, said in found])
        return
    for one, said in found:
        counts = f"{one.convs} rows, {one.ops} operators, {one.networks} networks, {one.failures} failures"
        console.out.print(Text(one.key, style="bold"), soft_wrap=True)
        for line in (said["path"], one.text, f"{counts}; revision {one.revision}"):
            console.out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if not found:
        console.out.print(f"{server} has no tables yet", highlight=False, soft_wrap=True)


def download(
    environment: Annotated[
        str, typer.Argument(metavar="TEXT", help="A device, or the key of an environment.")
    ],
    server: Annotated[str, typer.Option(metavar="URL", help="The server that gharial serve runs.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table, for --table of every command.")],
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Write a whole table of a server, with networks and failures, as every command takes it by --table."""
    loaded = served_table(server, environment)
    loaded.save(out)
    if json:
        console.print_json({"out": str(out), "environment": loaded.environment.key, "rows": len(loaded)})
        return
    text = f"wrote {len(loaded)} rows of {loaded.environment.text} to {out}"
    console.err.print(text, highlight=False, markup=False, soft_wrap=True)
