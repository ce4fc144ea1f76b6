"""Tables that are kept, and jobs, with a real server."""

import pytest

from latency_model import Client
from latency_model.errors import GharialError, InputError, MeasurementError, ServerError, TableError
from latency_model.ops import parse_config


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def sent(monkeypatch):
    """Return the sizes of what was sent instead of taken from the cache."""
    from latency_model.client import tables

    found, write = [], tables._write

    def counted(parts, path, key, url):
        write(parts, path, key, url)
        found.append(path.stat().st_size)

    monkeypatch.setattr(tables, "_write", counted)
    return found


def test_a_table_is_sent_once_a_revision(server, gpu_table, synthetic, tmp_path, sent):
    key = gpu_table.environment.key
    with Client(server.url, cache=tmp_path) as client:
        assert client.table(key) == client.table(key) == gpu_table
    assert len(sent) == 1 and len(files(tmp_path)) == 1
    with Client(server.url, cache=tmp_path) as client:
        assert client.table(key) == gpu_table
    assert len(sent) == 1
    before = files(tmp_path)[0]
    cut = before.read_bytes()[:-100]
    before.write_bytes(cut)  # damaged on the disk
    with Client(server.url, cache=tmp_path) as client:
        assert client.table(key) == gpu_table
    assert len(sent) == 2 and files(tmp_path) == [before]


def test_a_new_revision_takes_the_place_of_the_old(server, cpu_table, tmp_path, sent):
    key = cpu_table.environment.key
    shape = next(iter(cpu_table))
    import dataclasses

    later = dataclasses.replace(cpu_table[shape], measured_at="2099-01-01T00:00:00.000+00:00", note="again")
    part = dataclasses.replace(cpu_table, rows={shape: later}, ops={}, networks=(), failures={})
    with Client(server.url, token=server.token("rows:write"), cache=tmp_path) as client:
        first = client.environment(key).revision
        assert client.table(key)[shape] == cpu_table[shape]
        assert client.import_table(part)["replaced"] == 1
        assert client.environment(key).revision == first + 1
        assert client.table(key)[shape] == later
        assert len(files(tmp_path)) == 1 and len(sent) == 2
        assert client.import_table(part)["identical"] == 1
        assert client.table(key)[shape] == later and len(sent) == 2


def test_a_cache_that_cannot_be_written(server, gpu_table, tmp_path):
    (tmp_path / "file").write_text("")
    with Client(server.url, cache=tmp_path / "file") as client:
        assert client.table("gpu") == gpu_table


def test_what_is_no_table_is_not_imported(server, tmp_path):
    path = tmp_path / "no.parquet"
    path.write_bytes(b"PAR1" + b"x" * 100)
    with Client(server.url, token=server.token("rows:write")) as client:
        with pytest.raises(TableError, match="no Parquet file"):
            client.import_table(path)
        with pytest.raises(InputError, match="no latency table at"):
            client.import_table(tmp_path / "absent.parquet")
    with Client(server.url) as client, pytest.raises(InputError, match="rows:write"):
        client.import_table(path)


def test_an_export_that_breaks_off_leaves_the_old_file(server, tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with Client(server.url) as client:

        def broken(parts, target):
            target.write_bytes(next(parts))
            raise ServerError("broke off")

        monkeypatch.setattr("latency_model.client.tables._save", broken)
        with pytest.raises(ServerError):
            client.export(path, "gpu")
        with pytest.raises(InputError, match="ending"):
            client.export(tmp_path / "rows.xlsx", "gpu")
    assert path.read_text() == "old" and files(tmp_path) == [path]


def test_jobs(server):
    configs = [f"1x8x8x8 ->{8 * n} k3 s1 p1 g1 conv fp32 nchw" for n in range(1, 4)]
    with Client(server.url, token=server.token("jobs:write")) as client:
        job = client.jobs.submit([configs[0], *map(parse_config, configs[1:])], wants={"device": "nobody"})
        assert (job.state, job.total, job.done, job.ended) == ("queued", 3, 0, False)
        assert client.jobs.status(job) == client.jobs.status(job.id)
        assert job.id in [each.id for each in client.jobs.list("queued")]
        assert client.jobs.items(job) == dict.fromkeys(configs, "waiting")
        one, two = (client.jobs.submit(configs, idempotency_key="the-same") for _ in range(2))
        assert one.id == two.id != job.id
        with pytest.raises(ServerError, match="0 of 3 rows"):
            client.jobs.wait(job, timeout_s=0.2, poll_s=0.05)
        assert client.jobs.cancel(job).state == client.jobs.cancel(job).state == "cancelled"
        with pytest.raises(MeasurementError, match="cancelled"):
            client.jobs.wait(job)
        with pytest.raises(GharialError):
            client.jobs.status("abcdef")
        with pytest.raises(InputError):
            client.jobs.submit(["no shape"])
        for key in ("two words", "two\r\nlines", "\u00e9", "k" * 129):
            with pytest.raises(InputError, match="idempotency key"):
                client.jobs.submit(configs, idempotency_key=key)
        with pytest.raises(InputError, match="ONNX file"):
            client.jobs.submit(configs, batch=1)
    with Client(server.url) as client, pytest.raises(InputError, match="jobs:write"):
        client.jobs.submit(configs)


def test_a_job_of_an_onnx_file(server, tmp_path):
    from latency_model.zoo import load_model
    from profiler.onnx_export import export_onnx

    loaded = load_model("digits_resnet")
    path = tmp_path / "net.onnx"
    path.write_bytes(export_onnx(loaded.module, loaded.input_shape, batch=1))
    with Client(server.url, token=server.token("jobs:write")) as client:
        job = client.jobs.submit(path, wants={"device": "nobody"}, priority=3)
        assert job.kind == "model" and job.total > 3 and job.data["priority"] == 3
        client.jobs.cancel(job)
