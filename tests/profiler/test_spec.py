import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latency_model import ConvShape
from latency_model.errors import InputError
from profiler.spec import BackendSpec, device_specs

VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, 64), st.dictionaries(st.text(), VALUES))
def test_it_survives_json(runtime, device, threads, options):
    spec = BackendSpec(runtime, device, threads, options)
    assert BackendSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert hash(spec) == hash(BackendSpec(runtime, device, threads, tuple(options.items())))


def test_it_opens_the_back_end_with_its_options():
    shape = ConvShape(1, 8, 8, 8, 8)
    spec = BackendSpec("fake", options={"seed": 3, "fail_on": [shape.text]})
    assert spec.options == (("fail_on", (shape.text,)), ("seed", 3))
    with BackendSpec.from_json(spec.to_json()).open() as backend:
        assert dict(backend.environment.options)["seed"] == "3"
    with pytest.raises(InputError, match="unknown runtime"):
        BackendSpec("nothing").open()


@pytest.mark.parametrize("value", [ConvShape(1, 8, 8, 8, 8), float("nan"), {1, 2}])
def test_what_cannot_travel_is_refused(value):
    with pytest.raises(InputError, match="plain values"):
        BackendSpec("fake", options={"x": value})
    with pytest.raises(InputError, match="no field 'extra'"):
        BackendSpec.from_json({"runtime": "fake", "extra": 1})


def test_all_gpus_are_one_specification_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [spec.device for spec in device_specs("fake", ["cuda:all"], threads=2)] == ["cuda:0", "cuda:1"]
    with pytest.raises(InputError, match="cuda:1 is given twice"):
        device_specs("fake", ["cuda:1", "cuda:all"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="nvidia-smi"):
        device_specs("fake", ["cuda:all"])
