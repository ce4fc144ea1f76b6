import json

import numpy as np
import pytest

from latency_model.correction import Correction
from latency_model.corrections import TermsCorrection, TimedNetwork, correction_from_json, predicted_us
from latency_model.errors import InputError
from latency_model.network import Channels, Site
from latency_model.networks import NetworkCorrection
from latency_model.shapes import ConvShape

ALL = [
    Correction(1.1, 3.0, 4, 0.03),
    NetworkCorrection(1.05, 0.4, 20.0, 8, 0.03, 0.01, {"vgg": 0.02}),
    TermsCorrection(per_operator_us=0.5, call_us=2.0, networks=5),
]
SHAPE = ConvShape(1, 8, 6, 6, 4)


@pytest.mark.parametrize("correction", ALL, ids=lambda c: type(c).__name__)
def test_what_was_written_is_read_back(correction):
    assert correction_from_json(json.loads(json.dumps(correction.to_json()))) == correction


def test_files_of_earlier_versions_are_read():
    old = {"slope": 1.05, "offset_us": 12.5, "networks": 3, "spread": 0.04}
    assert correction_from_json(old) == Correction(1.05, 12.5, 3, 0.04)


def test_what_is_not_known_is_said():
    with pytest.raises(InputError, match="unknown kind 'tree'"):
        correction_from_json({"kind": "tree"})
    for damaged in ({}, {"slope": "x"}, {"kind": "terms"}, {"format_version": 2}):
        with pytest.raises(InputError, match="damaged"):
            correction_from_json(damaged)


@pytest.mark.parametrize("correction", ALL[:2], ids=lambda c: type(c).__name__)
def test_shares_and_the_call_make_the_latency(correction):
    network = TimedNetwork("a", "f", 100.0, (SHAPE, SHAPE, SHAPE), (20.0, 30.0, 10.0))
    whole = correction.apply(60.0, 3) if isinstance(correction, NetworkCorrection) else correction.apply(60.0)
    assert predicted_us(correction, network) == pytest.approx(whole)


@pytest.mark.parametrize("correction", ALL, ids=lambda c: type(c).__name__)
def test_a_matrix_is_the_share_at_each_count_and_nothing_costs_nothing(correction):
    site = Site("a", SHAPE, Channels(8), Channels(4))
    rows = np.arange(45, dtype=float).reshape(9, 5)
    rows[0] = rows[:, 0] = 0
    found = correction.matrix(site, rows, total_weight_bytes=1e7)
    assert found[5, 3] == pytest.approx(
        correction.operator_us(SHAPE.with_channels(5, 3), rows[5, 3], total_weight_bytes=1e7)
    )
    assert not found[0].any()
    assert not found[:, 0].any()
