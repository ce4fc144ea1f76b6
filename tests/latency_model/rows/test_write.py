import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latency_model.errors import RowsError
from latency_model.rows import read_rows, write_predictions


def read(path):
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz", "out.parquet"])
@pytest.mark.parametrize("unit", ["us", "ms"])
def test_predictions_stand_in_the_order_of_the_file(rows, saved, tmp_path, name, unit):
    changes = [{}, {"batch": 2}, {"groups": 5}, {"latency_us": 10.1}, {"batch": 3, "latency_us": -1.0}]
    data = rows.frame(*changes).rename(columns={"latency_us": f"latency_{unit}"})
    found = read_rows(saved(data), latency="optional", on_bad="drop")
    values = np.array([1.0, 2.0, 3.0])
    path = tmp_path / name
    write_predictions(
        path,
        rows=found,
        predicted_us=values,
        low_us=values / 2,
        high_us=values * 2,
        source=["measured", "regressed", "extrapolated"],
    )
    written = read(path)
    assert list(written) == [f"predicted_{unit}", f"low_{unit}", f"high_{unit}", "source"]
    scale = 1 if unit == "us" else 1e-3
    expected = np.array([1, 2, np.nan, 1, 3]) * scale
    np.testing.assert_allclose(written.iloc[:, 0], expected)
    np.testing.assert_allclose(written.iloc[:, 1], expected / 2)
    np.testing.assert_allclose(written.iloc[:, 2], expected * 2)
    assert written["source"].tolist() == ["measured", "regressed", "left out", "measured", "extrapolated"]


def test_what_cannot_be_written(rows, saved, tmp_path):
    found = read_rows(saved(rows.frame({}, {"batch": 2})))
    good = np.array([1.0, 2.0])

    def write(name="out.csv", values=good, **words):
        write_predictions(
            tmp_path / name, rows=found, predicted_us=values, low_us=good, high_us=good, **words
        )

    with pytest.raises(RowsError, match="its ending must be"):
        write("out.txt")
    with pytest.raises(RowsError, match="predicted holds values that are not finite"):
        write(values=np.array([1.0, np.nan]))
    with pytest.raises(RowsError, match="1 values do not belong to 2 convolutions"):
        write(values=good[:1])
    with pytest.raises(RowsError, match="1 sources do not belong to 2 convolutions"):
        write(source=["measured"])
    assert not list(tmp_path.glob("out*"))
    write()
    assert list(read(tmp_path / "out.csv")) == ["predicted_us", "low_us", "high_us"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.lists(st.floats(1e-3, 1e7), min_size=4, max_size=4),
    st.sampled_from(["out.csv", "out.parquet"]),
)
def test_every_row_gets_the_prediction_of_its_convolution(rows, tmp_path_factory, batches, values, name):
    folder = tmp_path_factory.mktemp("write")
    rows.frame(*({"batch": batch} for batch in batches)).to_parquet(folder / "rows.parquet")
    found = read_rows(folder / "rows.parquet")
    predicted = np.array([values[shape.batch - 1] for shape in found.columns])
    write_predictions(folder / name, rows=found, predicted_us=predicted, low_us=predicted, high_us=predicted)
    expected = [values[batch - 1] for batch in batches]
    np.testing.assert_allclose(read(folder / name)["predicted_us"], expected, rtol=1e-8)
