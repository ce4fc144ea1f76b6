"""Plain rows of convolutions and latencies in Parquet or CSV files: read, checked, joined, and written back."""

from latency_model.rows.inputs import holds_rows, load_tables
from latency_model.rows.kernels import main_kernel
from latency_model.rows.read import read_rows
from latency_model.rows.row_set import Defaults, RowSet
from latency_model.rows.to_table import to_table
from latency_model.rows.write import write_predictions
from latency_model.table_file import is_latency_table

__all__ = [
    "Defaults",
    "RowSet",
    "holds_rows",
    "is_latency_table",
    "load_tables",
    "main_kernel",
    "read_rows",
    "to_table",
    "write_predictions",
]
