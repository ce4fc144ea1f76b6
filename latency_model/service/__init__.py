"""The service: one place that knows how long a convolution takes on each device, and gets the unknown measured.

Its packages come with ``pip install 'gharial[service]'``; nothing of it is imported before it is used.
"""

__all__: list[str] = []
