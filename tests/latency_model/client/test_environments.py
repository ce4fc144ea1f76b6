import dataclasses

import pytest

from latency_model import Client, Environment
from latency_model.client.environments import ServedEnvironment, choose
from latency_model.errors import TableError

H100 = Environment("NVIDIA H100 80GB HBM3", "cuda", "tensorrt", "10.3")
ORT = dataclasses.replace(H100, runtime="onnxruntime", runtime_version="1.32", options=(("search", "all"),))
A100 = dataclasses.replace(H100, device="NVIDIA A100-SXM4")
A10 = dataclasses.replace(H100, device="NVIDIA A10")


def served(*environments):
    return [ServedEnvironment(e.key, e, 1, 5, 0, 0, 0, 0.0, True) for e in environments]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (H100.key, H100),
        (f" {ORT.key} ", ORT),
        ("h100 tensorrt", H100),
        ("H100 onnxruntime", ORT),
        ("search=all", ORT),
        ("A10", A10),
        ("sxm4", A100),
        ("nvidia a100-sxm4", A100),
        (A100.key[:7], A100),
    ],
)
def test_what_a_text_names(text, wanted):
    assert choose(served(H100, ORT, A100, A10), text, where="S").environment == wanted


def test_parts_of_words_where_no_whole_one_fits():
    assert choose(served(H100, A100), "a10", where="S").environment == A100


def test_one_environment_needs_no_name():
    assert choose(served(H100), None, where="S").environment == H100
    with pytest.raises(TableError, match=f"{H100.key}.* or .*{A10.key}.*--environment"):
        choose(served(H100, A10), None, where="S")
    with pytest.raises(TableError, match="has no tables yet"):
        choose([], "h100", where="S")


@pytest.mark.parametrize("text", ["h100", "tensorrt", "nvidia", "v100", "", "   ", "0" * 12])
def test_what_names_none_or_several_lists_them(text):
    with pytest.raises(TableError) as caught:
        choose(served(H100, ORT, A10), text, where="http://s")
    said = str(caught.value)
    assert "http://s" in said and H100.key in said and said.count(". ") == 0
    assert (A10.key in said) == (text != "h100")


def test_many_are_not_all_listed():
    many = served(*(dataclasses.replace(H100, driver=str(place)) for place in range(30)))
    with pytest.raises(TableError, match=r"and 22 more"):
        choose(many, "h100", where="S")


def test_the_environments_of_a_server(client, server, gpu_table, cpu_table):
    known = {one.key: one for one in client.environments()}
    assert set(known) == {gpu_table.environment.key, cpu_table.environment.key}
    gpu = client.environment("test gpu")
    assert gpu == known[gpu_table.environment.key]
    assert gpu.environment == gpu_table.environment
    counts = (gpu.convs, gpu.ops, gpu.networks, gpu.failures)
    assert counts == (len(gpu_table), len(gpu_table.ops), len(gpu_table.networks), len(gpu_table.failures))
    shape = next(iter(gpu_table))
    for which in ("tensorrt", gpu.key, gpu, gpu.environment):
        assert client.lookup(shape, which).latency_us == gpu_table[shape].latency_us
    with pytest.raises(TableError, match=r"choose with --environment"):
        client.lookup(shape)
    with pytest.raises(TableError, match=r"no environment"):
        client.lookup(shape, "0" * 12)
    with Client(server.url, token="ghl_nobody") as nobody, pytest.raises(Exception, match=r"GHARIAL_TOKEN"):
        nobody.environments()
