import numpy as np
import pytest

from latency_model.columns import ConvColumns, Kind


def random_columns(count, seed=0):
    rng = np.random.default_rng(seed)
    height = rng.integers(7, 100, count)
    return ConvColumns(
        batch=rng.integers(1, 33, count),
        in_channels=rng.integers(3, 700, count),
        height=height,
        width=height,
        out_channels=rng.integers(8, 700, count),
        groups=np.ones(count, dtype=np.int64),
        kind=np.zeros(count, dtype=np.int64),
        kinds=(Kind(pattern="conv"),),
    )


@pytest.fixture(scope="session")
def columns():
    return random_columns
