"""Predicts convolutions that nobody measured from those that somebody did."""

__all__: list[str] = []
