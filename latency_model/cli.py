"""Commands on tables and models, `gharial tables …`, `gharial fit`, `gharial estimate`, and on the database."""

from __future__ import annotations

import typer

from latency_model.estimate_cli import estimate, explain
from latency_model.fit_cli import fit
from latency_model.service.store_cli import app as store_app
from latency_model.service.store_cli import import_tables
from latency_model.tables_cli import tables
from latency_model.transfer_cli import transfer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
tables.command(name="import", epilog="Example: gharial tables import monday.parquet tuesday.parquet")(
    import_tables
)
app.add_typer(tables, name="tables")
app.add_typer(store_app)
app.command(epilog="Example: gharial fit table.parquet --out model")(fit)
app.command(epilog="Example: gharial estimate resnet20 --table table.parquet --batch 1")(estimate)
app.command(epilog="Example: gharial explain resnet20 --table table.parquet --batch 1")(explain)
app.command(epilog="Example: gharial transfer a100.csv --samples h100_few.csv --out h100.parquet")(transfer)
