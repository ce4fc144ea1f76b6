import json
import time

import pytest

from latency_model.errors import InputError
from pruner.rundir import Stopwatch, claim, holds, record, recorded

REQUEST = {"budget": "latency=0.6x", "seed": 0, "weights": None}


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path):
    out = tmp_path / "deep" / "run"
    claim(REQUEST, out)
    (out / "learn").mkdir()
    (out / "learn" / "state.safetensors").write_bytes(b"an hour of work")
    record(out, notes=["x"])
    return out


def test_a_new_folder_is_made_and_belongs_to_the_request(tmp_path):
    out = tmp_path / "a" / "b"
    assert not holds(REQUEST, out)
    assert not out.exists()
    claim(REQUEST, out)
    assert recorded(out) == {"request": REQUEST}
    assert holds(REQUEST, out)


def test_an_empty_folder_is_taken(tmp_path):
    claim(REQUEST, tmp_path)
    assert holds(REQUEST, tmp_path)


def test_the_same_request_goes_on(run):
    before = files(run)
    claim(REQUEST, run)
    assert files(run) == before


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**REQUEST, "seed": 1}, "seed: 0 there, 1 asked for"),
        ({"budget": "latency=0.6x"}, "seed: 0 there, None asked for"),
        ({**REQUEST, "new": 3}, "new: None there, 3 asked for"),
    ],
)
def test_another_request_is_refused_and_nothing_changes(run, other, said):
    before = files(run)
    with pytest.raises(InputError, match="--restart") as caught:
        claim(other, run)
    assert said in str(caught.value)
    assert files(run) == before


def test_restart_throws_only_the_run_away(run):
    beside = run.parent / "beside.txt"
    beside.write_text("stays")
    other = {**REQUEST, "seed": 1}
    assert not holds(other, run, restart=True)
    assert (run / "learn").exists()  # asking changes nothing
    claim(other, run, restart=True)
    assert recorded(run) == {"request": other}
    assert [path.name for path in run.iterdir()] == ["run.json"]
    assert beside.read_text() == "stays"


def test_restart_does_not_follow_links_out_of_the_run(run, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    (run / "link").symlink_to(precious)
    through = tmp_path / "through"
    through.symlink_to(run)
    claim(REQUEST, through, restart=True)
    assert (precious / "thesis.tex").read_text() == "years"
    assert recorded(run) == {"request": REQUEST}


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"request": 3}', '{"experiment": "of another tool"}', "not JSON"]
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_folder_that_holds_no_run_is_never_deleted(tmp_path, content, restart):
    (tmp_path / "thesis.tex").write_text("years")
    (tmp_path / "run.json").write_text(content)
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"holds no run|as JSON"):
        claim(REQUEST, tmp_path, restart=restart)
    assert files(tmp_path) == before


@pytest.mark.parametrize("restart", [False, True])
def test_a_file_in_the_place_of_the_folder_stays(tmp_path, restart):
    path = tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(InputError, match="holds no run"):
        claim(REQUEST, path, restart=restart)
    assert path.read_text() == "mine"


def test_the_stopwatch_adds_the_parts_up(run):
    first = Stopwatch(run, started=time.monotonic() - 100)
    first.stop()
    assert recorded(run)["seconds"] == pytest.approx(100, abs=1)
    second = Stopwatch(run, started=time.monotonic() - 10)
    assert second.seconds == pytest.approx(110, abs=2)
    second.stop()
    assert json.loads((run / "run.json").read_text())["seconds"] == pytest.approx(110, abs=2)
    assert recorded(run)["notes"] == ["x"]
