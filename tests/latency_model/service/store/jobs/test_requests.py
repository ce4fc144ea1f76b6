"""What may be asked for, and which worker it suits."""

from __future__ import annotations

import contextlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_things import CONVS, HALF, NARROW, OFFERS, OP, WIDE, measured, table

from latency_model.environment import Environment
from latency_model.errors import InputError
from latency_model.harvest import harvest_onnx
from latency_model.measurement import NetworkRow
from latency_model.ops import parse_config
from latency_model.service.store import jobs as queue
from latency_model.service.store.jobs.states import rest_s
from profiler.testing import small_network

MODEL = small_network(channels=8, size=8)
COST = harvest_onnx(MODEL)


def wants(**given):
    return queue.Wants.from_json(given)


@pytest.mark.parametrize(
    ("given", "who"),
    [
        ({}, {"wide", "narrow"}),
        ({"device": "h100"}, {"wide"}),
        ({"device": "H100 nvidia"}, {"wide"}),
        ({"device": "H10"}, set()),
        ({"device": "some"}, {"narrow"}),
        ({"kind": "cuda"}, {"wide"}),
        ({"runtime": "onnxruntime"}, {"narrow"}),
        ({"runtime": "onnxruntime", "runtime_version": "2"}, set()),
        ({"environment": WIDE.key}, {"wide"}),
        ({"precision": "fp16"}, {"wide"}),
        ({"precisions": ["fp32"]}, {"wide", "narrow"}),
        ({"ops": True}, {"narrow"}),
        ({"options": {"builds": 3}}, {"wide"}),
        ({"options": {"builds": "3", "level": "5"}}, set()),
    ],
)
def test_a_worker_must_offer_all_that_a_job_wants(given, who):
    wanted = wants(**given)
    assert {name for name, offer in OFFERS.items() if wanted.accepts(offer)} == who
    assert queue.Wants.from_json(wanted.to_json()) == wanted


@pytest.mark.parametrize(
    "given",
    [
        [],
        {"gpu": "H100"},
        {"device": 3},
        {"device": "x" * 201},
        {"precision": "fp8"},
        {"precisions": "fp32"},
        {"ops": "yes"},
        {"options": ["a"]},
        {"options": {"a": {"b": 1}}},
        {"options": {"a": "x" * 300}},
    ],
)
def test_wants_that_make_no_sense_are_refused(given):
    with pytest.raises(InputError):
        queue.Wants.from_json(given)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda s: st.lists(s) | st.dictionaries(st.text(), s),
    )
)
def test_no_json_breaks_wants_or_offers(data):
    for read in (queue.Wants.from_json, queue.Offer.from_json):
        with contextlib.suppress(InputError):
            read(data)


def test_an_offer_reads_back_and_an_incomplete_one_is_refused():
    for offer in OFFERS.values():
        assert queue.Offer.from_json(offer.to_json()) == offer
    good = OFFERS["wide"].to_json()
    for bad in (
        {**good, "precisions": "fp32"},
        {**good, "precisions": ["fp9"]},
        {**good, "environment": {"device": "x"}},
        {**good, "environment": {**WIDE.to_json(), "device": 3}},
        {**good, "environment": {**WIDE.to_json(), "colour": "red"}},
    ):
        with pytest.raises(InputError):
            queue.Offer.from_json(bad)


def test_duplicates_count_once_and_texts_become_canonical():
    loose = f"  {CONVS[0]} "
    request = queue.configs_request([*CONVS, loose, CONVS[1]], wants())
    assert request.items == CONVS
    assert request.wants.precisions == ("fp32",)


def test_what_a_job_needs_follows_from_its_configurations():
    assert queue.configs_request([HALF, CONVS[0]], wants()).wants.precisions == ("fp16", "fp32")
    assert queue.configs_request([OP], wants()).wants.ops
    with pytest.raises(InputError, match="make them agree"):
        queue.configs_request([HALF], wants(precision="fp32"))


@pytest.mark.parametrize(
    "given",
    [
        {"configs": []},
        {"configs": ["nonsense"]},
        {"configs": [3]},
        {"configs": [CONVS[0] + " " * 3000]},
        {"configs": CONVS, "priority": 1001},
        {"configs": CONVS, "priority": True},
        {"configs": CONVS, "max_attempts": 0},
    ],
)
def test_requests_that_make_no_sense_are_refused(given):
    with pytest.raises(InputError):
        queue.configs_request(given.pop("configs"), wants(), **given)


def test_requests_are_the_same_when_everything_is():
    first = queue.configs_request(CONVS, wants(device="H100"))
    assert first.digest == queue.configs_request([*CONVS, CONVS[0]], wants(device="H100")).digest
    others = [
        queue.configs_request(CONVS[:3], wants(device="H100")),
        queue.configs_request(CONVS, wants()),
        queue.configs_request(CONVS, wants(device="H100"), priority=1),
        queue.configs_request(CONVS, wants(device="H100"), max_attempts=1),
        queue.model_request(MODEL, COST, wants()),
        queue.model_request(MODEL + b"\x00", COST, wants()),
        queue.model_request(MODEL, COST, wants(), name="other"),
    ]
    digests = {request.digest for request in (first, *others)}
    assert len(digests) == 1 + len(others)


def test_a_model_asks_for_its_parts_and_for_itself():
    request = queue.model_request(MODEL, COST, wants(), name="net")
    assert request.items[-1] == f"network {request.model.name}"
    assert request.model.name.startswith("net-")
    assert {shape.text for _, shape in COST.shapes()} <= set(request.items)
    assert {op.text for _, op in COST.op_shapes()} <= set(request.items)
    assert not request.wants.ops
    for bad in ({"name": "a/b"}, {"name": ""}, {"name": "x" * 81}):
        with pytest.raises(InputError, match="name"):
            queue.model_request(MODEL, COST, wants(), **bad)
    with pytest.raises(InputError, match="fp32"):
        queue.model_request(MODEL, COST, wants(precision="fp16"))


@given(st.integers(1, 100), st.integers())
def test_the_rest_doubles_up_to_a_limit_with_jitter(attempts, seed):
    middle = min(300.0, 2.0**attempts)
    assert 0.5 * middle <= rest_s(attempts, random.Random(seed)) <= 1.5 * middle


def model_job(database, now=0.0):
    request = queue.model_request(MODEL, COST, wants(), name="net")
    return queue.submit(database, request, now=now)[0], request


def test_a_model_is_done_when_its_network_is_timed_too(database):
    _job, request = model_job(database)
    lease = queue.lease_job(database, OFFERS["narrow"], worker="w", now=1.0, lease_s=10.0)
    assert lease.network
    assert queue.model_of(database, lease.lease) == MODEL
    parts = [text for text in request.items if not text.startswith("network")]
    queue.post_rows(database, lease.lease, table(NARROW, parts), now=2.0, lease_s=10.0)
    with pytest.raises(queue.JobConflictError, match="network"):
        queue.complete(database, lease.lease, now=3.0)
    shapes = tuple(parse_config(text) for text in parts)
    network = NetworkRow(request.model.name, shapes, measured())
    queue.post_rows(database, lease.lease, table(NARROW, networks=[network]), now=4.0, lease_s=10.0)
    assert queue.complete(database, lease.lease, now=5.0).state == "done"
    # The same again is known already, the blob is kept once.
    again, _ = model_job(database, now=6.0)
    assert (again.state, again.environment) == ("done", NARROW.key)


def test_a_runtime_that_times_no_operators_says_so_of_each(database):
    job, request = model_job(database)
    lease = queue.lease_job(database, OFFERS["wide"], worker="w", now=1.0, lease_s=10.0)
    assert lease.network
    assert not any(text.startswith("op ") for text in lease.configs)
    queue.post_rows(database, lease.lease, table(WIDE, lease.configs), now=2.0, lease_s=10.0)
    reason = {f"network {request.model.name}": "it does not fit"}
    assert queue.complete(database, lease.lease, now=3.0, failures=reason).state == "done"
    failures = queue.get_job(database, job.id).failures
    ops = {text for text in request.items if text.startswith("op ")}
    assert set(failures) == ops | set(reason)
    assert all("times no operators" in failures[text] for text in ops)


def test_rows_of_another_environment_are_refused_under_a_lease(database):
    queue.submit(database, queue.configs_request(CONVS, wants()), now=0.0)
    lease = queue.lease_job(database, OFFERS["wide"], worker="w", now=1.0, lease_s=10.0)
    with pytest.raises(InputError, match="late rows"):
        queue.post_rows(database, lease.lease, table(NARROW, CONVS), now=2.0, lease_s=10.0)


def test_reasons_that_no_database_could_keep_are_kept_as_far_as_they_go(database):
    queue.submit(database, queue.configs_request(CONVS[:1], wants(), max_attempts=1), now=0.0)
    lease = queue.lease_job(database, OFFERS["wide"], worker="w", now=1.0, lease_s=10.0)
    job = queue.fail(database, lease.lease, "a\0b\ud800" + "x" * 9000, now=2.0)
    assert job.state == "failed"
    assert job.error.startswith("attempt 1 of 1: a b?x")


@pytest.mark.parametrize("lease", ["", ".", "nothing", "0123456789abcdef.wrong", "é.ü"])
def test_what_is_no_lease_is_lost(database, lease):
    for call in (
        lambda: queue.heartbeat(database, lease, now=0.0, lease_s=1.0),
        lambda: queue.complete(database, lease, now=0.0),
        lambda: queue.fail(database, lease, "x", now=0.0),
        lambda: queue.give_back(database, lease, now=0.0),
        lambda: queue.model_of(database, lease),
    ):
        with pytest.raises(queue.LeaseLostError):
            call()


def test_pages_of_jobs_follow_each_other(database):
    made = [
        queue.submit(database, queue.configs_request(CONVS, wants()), now=float(n))[0].id for n in range(5)
    ]
    first = queue.list_jobs(database, limit=3)
    rest = queue.list_jobs(database, limit=3, before=first[-1].id)
    assert [job.id for job in (*first, *rest)] == made[::-1]
    with pytest.raises(queue.UnknownJobError):
        queue.list_jobs(database, before="ffff")
    with pytest.raises(InputError):
        queue.list_jobs(database, state="sleeping")
    with pytest.raises(queue.UnknownJobError):
        queue.get_job(database, "ffff")


def test_the_first_of_many_that_suit_nobody_is_found_behind_them(database):
    """More than a page of jobs that another device is waited for."""
    for _ in range(205):
        queue.submit(database, queue.configs_request(CONVS[:1], wants(device="H100")), now=0.0)
    last = queue.submit(database, queue.configs_request(CONVS[:1], wants()), now=0.0)[0]
    assert queue.lease_job(database, OFFERS["narrow"], worker="w", now=1.0, lease_s=1.0).job_id == last.id


def test_sweeping_ends_what_nobody_asks_for(database):
    queue.submit(database, queue.configs_request(CONVS, wants(), max_attempts=1), now=0.0)
    queue.lease_job(database, OFFERS["wide"], worker="the one", now=1.0, lease_s=10.0)
    assert queue.sweep(database, now=10.0) == 0
    assert queue.sweep(database, now=11.0) == 1
    (job,) = queue.list_jobs(database, state="failed")
    assert "stopped answering" in job.error
    assert "the one" in job.error


def test_environments_are_told_apart_by_all_they_are():
    assert not wants(environment=WIDE.key).allows(Environment("NVIDIA H100 80GB", "cuda", "tensorrt", "11"))
