"""Image classification data: Parquet, CIFAR folders, image folders and scikit-learn's digits."""

from pruner.data.load import load_data
from pruner.data.split import Split, Splits

__all__ = ["Split", "Splits", "load_data"]
