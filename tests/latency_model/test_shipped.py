import pytest

from latency_model import shipped
from latency_model.errors import TableError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = tmp_path / "ships"
    here.mkdir()
    for name in ("cpu-a1.32.parquet", "cpu-b.parquet"):
        (here / name).write_bytes(b"")
    monkeypatch.setattr(shipped, "shipped_tables", lambda: tuple(sorted(here.glob("*.parquet"))))
    return here


def test_a_shipped_table_is_found_by_its_name(folder):
    assert shipped.find_table("cpu-a1.32") == folder / "cpu-a1.32.parquet"
    assert shipped.find_table(str(folder / "cpu-b.parquet")) == folder / "cpu-b.parquet"


def test_a_path_that_exists_wins(folder, tmp_path):
    (tmp_path / "cpu-b").write_bytes(b"mine")
    assert shipped.find_table("cpu-b").read_bytes() == b"mine"


def test_what_is_neither_is_an_error_with_the_nearest_name(folder):
    with pytest.raises(TableError, match=r"did you mean cpu-b or .*\?.*gharial profile.*gharial tables list"):
        shipped.find_table("cpu-c")
    with pytest.raises(TableError, match="no latency table at /absent; make"):
        shipped.find_table("/absent")


def test_the_tables_that_ship_are_files_of_this_checkout():
    assert all(path.suffix == ".parquet" and path.is_file() for path in shipped.shipped_tables())
