"""Shared by all tests: one thread, so that a busy machine slows tests down instead of stalling them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

torch.set_num_threads(1)

# How long an example takes is the machine's business, and the first one imports what it needs.
settings.register_profile("gharial", deadline=None)
settings.load_profile("gharial")
