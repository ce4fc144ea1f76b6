"""A new device from few measurements and all that is known of another one."""

from latency_model.transfer.device import DeviceTransfer, restored, state
from latency_model.transfer.fitting import FEWEST, transfer
from latency_model.transfer.table import TransferredTable, transfer_table
from latency_model.transfer.units import units_of

__all__ = [
    "FEWEST",
    "DeviceTransfer",
    "TransferredTable",
    "restored",
    "state",
    "transfer",
    "transfer_table",
    "units_of",
]
