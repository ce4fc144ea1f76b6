"""The service over HTTP: one router a file, put together in ``app``."""

__all__: list[str] = []
