"""A new device from few measurements and all that is known of another one."""

from latency_model.transfer.device import DeviceTransfer, restored, state
from latency_model.transfer.fitting import FEWEST, transfer
from latency_model.transfer.processors import processors_of
from latency_model.transfer.table import TransferredTable, transfer_table

__all__ = [
    "FEWEST",
    "DeviceTransfer",
    "TransferredTable",
    "processors_of",
    "restored",
    "state",
    "transfer",
    "transfer_table",
]
