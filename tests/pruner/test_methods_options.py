import dataclasses

import pytest

from latency_model.errors import InputError
from pruner.methods import open_method
from pruner.methods.options import configured, described, parse_options


@dataclasses.dataclass(frozen=True)
class Config:
    share: float = 0.5
    rounds: int = 3
    exact: bool = False
    kind: str = "a"
    limit: float | None = None
    stages: tuple[float, ...] = ()


def test_texts_become_the_types_of_the_fields():
    texts = ["share=0.25", "rounds=7", "exact=yes", "kind=b c", "limit=2", "stages=0.25, 0.5,1"]
    found = configured(Config, parse_options(texts), of="m")
    assert found == Config(0.25, 7, True, "b c", 2.0, (0.25, 0.5, 1.0))
    assert configured(Config, {}, of="m") == Config()
    assert configured(Config, {"limit": "none", "exact": "off"}, of="m") == Config()
    assert described(found)["stages"] == [0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["share"], "write it like floor=0.25"),
        (["share="], "write it like"),
        (["=1"], "write it like"),
        (["share=1", "share=2"], "given twice"),
        (["sharee=1"], "did you mean share"),
        (["zzz=1"], "it has share, rounds"),
        (["share=much"], "share of m is a number, not 'much'"),
        (["rounds=1.5"], "is a number"),
        (["exact=maybe"], "yes or no"),
        (["stages=1,x"], "is a number"),
    ],
)
def test_mistakes_say_what_is_wrong(texts, message):
    with pytest.raises(InputError, match=message):
        configured(Config, parse_options(texts), of="m")


def test_a_method_takes_its_settings():
    gator = open_method("gator", {"price": "half-width", "stages": "0.5,1", "floor": "0.25"})
    assert (gator.config.price, gator.config.stages, gator.config.floor) == ("half-width", (0.5, 1.0), 0.25)
    with pytest.raises(InputError, match="price of gator must be one of table, half-width"):
        open_method("gator", {"price": "flops"})
    with pytest.raises(InputError, match="quiet_from of gator must be below quiet_to"):
        open_method("gator", {"quiet_from": "0.95"})
    with pytest.raises(InputError, match="the method l1 has no settings"):
        open_method("l1", {"floor": "0.25"})
