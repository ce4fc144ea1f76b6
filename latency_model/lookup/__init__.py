"""A latency table as arrays in one mapped file: a million rows open at once, a million lookups in under a second."""

from latency_model.lookup.table import LookupResult, LookupRow, LookupTable

__all__ = ["LookupResult", "LookupRow", "LookupTable"]
