"""Shared by all tests: one thread, so that a busy machine slows tests down instead of stalling them."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
