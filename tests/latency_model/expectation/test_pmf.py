"""The whole distribution of a group's count, against simple recursion."""

import numpy as np
import pytest
import torch

from latency_model.errors import InputError
from latency_model.expectation import count_pmf


def dynamic_programme(keep):
    pmf = np.array([1.0])
    for p in keep:
        pmf = np.convolve(pmf, [1 - p, p])
    return pmf


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 16, 33, 100, 257, 2048])
def test_pmf_against_the_dynamic_programme(size):
    rng = np.random.default_rng(size)
    keep = rng.choice([0.0, 1.0, 0.5, *rng.uniform(0, 1, 5), 1e-12, 1 - 1e-12], size)
    pmf = count_pmf(torch.tensor(keep)).numpy()
    assert pmf.shape == (size + 1,)
    np.testing.assert_allclose(pmf, dynamic_programme(keep), atol=1e-14)
    assert pmf.sum() == pytest.approx(1, abs=1e-12)


def test_pmf_gradient_across_the_fft():
    gates = torch.rand(37, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(count_pmf, [gates])


@pytest.mark.parametrize(
    "keep", [torch.tensor([1.1]), torch.tensor([-0.1]), torch.tensor([np.nan]), torch.ones(2, 2)]
)
def test_pmf_refuses_what_is_no_probability(keep):
    with pytest.raises(InputError):
        count_pmf(keep)
