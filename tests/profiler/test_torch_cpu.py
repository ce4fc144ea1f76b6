import torch

from latency_model import ConvShape
from profiler.backends.torch_cpu import TorchCpu
from profiler.testing import BackendSuite


class TestConformance(BackendSuite):
    times_networks = False

    def open(self):
        return TorchCpu()


def test_the_number_of_threads_and_the_random_state_are_given_back():
    before, state = torch.get_num_threads(), torch.get_rng_state()
    with TorchCpu(threads=before + 1) as backend:
        assert torch.get_num_threads() == before + 1
        backend.measure(ConvShape(1, 8, 8, 8, 8), run_id="r")
    assert torch.get_num_threads() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_channels_last_shapes_are_timed():
    with TorchCpu() as backend:
        assert backend.measure(ConvShape(1, 16, 8, 8, 16, layout="nhwc"), run_id="r").latency_us > 0
