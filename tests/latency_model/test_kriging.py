import numpy as np
import pytest

from latency_model.kriging import DEFAULT_WEIGHTS, Posterior, Sample, Surface, fit_weights


@pytest.fixture
def sample():
    surface = Surface([8, 16, 24, 32, 64, 96], [8, 16, 32, 40, 48, 56, 64])
    rng = np.random.default_rng(0)
    cells = np.argwhere(rng.random(surface.shape) < 0.5)
    # Drawn from the process itself, so that nothing is an outlier.
    covariance = surface.between(cells, cells, DEFAULT_WEIGHTS) + DEFAULT_WEIGHTS[-1] * np.eye(len(cells))
    values = np.linalg.cholesky(covariance) @ np.clip(rng.standard_normal(len(cells)), -1.5, 1.5)
    return Sample(surface, cells, values, np.full(len(cells), 1e-5))


def direct(sample, at, *, leave_out=()):
    """Return mean and variance at cells by the textbook formula."""
    kept = np.array([i for i in range(len(sample.cells)) if i not in leave_out])
    cells = sample.cells[kept]
    own = DEFAULT_WEIGHTS[-1]
    covariance = sample.surface.between(cells, cells, DEFAULT_WEIGHTS) + np.diag(own + sample.noise[kept])
    across = sample.surface.between(cells, at, DEFAULT_WEIGHTS)
    mean = across.T @ np.linalg.solve(covariance, sample.values[kept])
    variance = DEFAULT_WEIGHTS.sum() - np.einsum("ij,ij->j", across, np.linalg.solve(covariance, across))
    return mean, variance


def test_mean_and_variance_are_those_of_the_textbook(sample):
    found = Posterior(sample, DEFAULT_WEIGHTS)
    every = np.argwhere(np.ones(sample.surface.shape, dtype=bool))
    mean, variance = direct(sample, every)
    np.testing.assert_allclose(found.mean.ravel(), mean, atol=1e-5)
    np.testing.assert_allclose(found.variances(every), np.maximum(variance, DEFAULT_WEIGHTS[-1]), rtol=1e-4)


def test_residuals_are_those_of_leaving_each_point_out(sample):
    found = Posterior(sample, DEFAULT_WEIGHTS)
    for i in range(len(sample.cells)):
        mean, variance = direct(sample, sample.cells[i : i + 1], leave_out=(i,))
        assert found.residual[i] == pytest.approx(sample.values[i] - mean[0], abs=1e-5)
        assert found.variance[i] == pytest.approx(variance[0] + 1e-5, rel=1e-3)


def test_the_most_uncertain_cells_are_chosen_one_after_the_other(sample):
    found = Posterior(sample, DEFAULT_WEIGHTS)
    seen = {tuple(cell) for cell in sample.cells}
    free = np.array([cell for cell in np.argwhere(np.ones(sample.surface.shape)) if tuple(cell) not in seen])
    scale = np.linspace(1.0, 2.0, len(free))
    chosen = found.most_uncertain(free, scale, 4)
    cells, taken = sample.cells, []
    for _ in range(4):
        grown = Sample(sample.surface, cells, np.zeros(len(cells)), np.zeros(len(cells)))
        variance = np.array(direct(grown, free)[1]) * scale**2
        variance[taken] = -1.0
        taken.append(int(variance.argmax()))
        cells = np.vstack([cells, free[taken[-1]]])
    assert list(chosen) == taken


def test_one_wild_point_does_not_bend_its_neighbours(sample):
    wild = sample.values.copy()
    wild[7] += 1.5
    calm = Posterior(sample, DEFAULT_WEIGHTS).mean
    found = Posterior(Sample(sample.surface, sample.cells, wild, sample.noise), DEFAULT_WEIGHTS).mean
    others = np.ones(sample.surface.shape, dtype=bool)
    others[tuple(sample.cells[7])] = False
    assert np.abs(found - calm)[others].max() < 0.15


def test_fitted_weights_find_the_axis_that_steps():
    surface = Surface(range(8, 129, 8), range(8, 129, 8))
    cells = np.argwhere(np.random.default_rng(1).random(surface.shape) < 0.4)
    stairs = 0.2 * (cells[:, 1] // 4) + 0.1 * (cells[:, 1] % 3)
    weights = fit_weights([Sample(surface, cells, stairs - stairs.mean(), np.full(len(cells), 1e-6))])
    across, down = weights[3] + weights[5], weights[4] + weights[6]
    assert across > 5 * down


def test_weights_of_no_sample_are_the_usual_ones():
    assert np.array_equal(fit_weights([]), DEFAULT_WEIGHTS)
