"""Hundreds of damaged ONNX models, and generated requests to every path: no server error, and it goes on."""

import random
import warnings

import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

from latency_model.harvest.onnx_skeleton import varint
from latency_model.service.api.lookup import ARROW
from latency_model.service.api.tables import PARQUET
from latency_model.service.store.tokens import create_token
from latency_model.zoo import load_model

MUTANTS = 300


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    loaded = load_model("digits_resnet")
    path = tmp_path_factory.mktemp("onnx") / "digits.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(loaded.module.eval(), torch.zeros(1, *loaded.input_shape), str(path), dynamo=False)
    return path.read_bytes()


def mutant(data, draw):
    """Return ``data`` damaged in one of the ways in which files get damaged, or are."""
    found = bytearray(data)
    kind = draw.randrange(7)
    if kind == 0:
        for _ in range(draw.choice((1, 3, 30, 300))):
            found[draw.randrange(len(found))] = draw.randrange(256)
    elif kind == 1:
        del found[draw.randrange(len(found)) :]
    elif kind == 2:
        at = draw.randrange(len(found))
        del found[at : at + draw.randrange(1, 2000)]
    elif kind == 3:
        at, to = draw.randrange(len(found)), draw.randrange(len(found))
        found[at:at] = found[to : to + draw.randrange(1, 3000)]
    elif kind == 4:
        at = draw.randrange(len(found))
        found[at : at + 1] = varint(draw.choice((2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1, 0)))
    elif kind == 5:
        at = draw.randrange(min(4000, len(found)))
        found[at] ^= 1 << draw.randrange(8)
    else:
        at = draw.randrange(len(found))
        found[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 500)))
    return bytes(found)


def test_damaged_models_are_refused_or_answered(new_client, table, real):
    client, draw, refused = new_client(harvest_timeout_s=10), random.Random(11), 0
    params = {"environment": table.environment.key}
    for number in range(MUTANTS):
        answer = client.post("/v1/estimate", params=params, content=mutant(real, draw))
        assert answer.status_code in (200, 400, 404), (number, answer.status_code, answer.text)
        refused += answer.status_code == 400
    assert refused > MUTANTS / 4
    assert client.get("/healthz").status_code == 200


CHECKS = (
    "not_a_server_error",
    "response_schema_conformance",
    "status_code_conformance",
    "content_type_conformance",
)


@schemathesis.serializer(ARROW, PARQUET)
def as_it_is(_, value):
    return value if isinstance(value, bytes) else str(value).encode()


@pytest.mark.parametrize("token", [None, "admin"])
def test_generated_requests_meet_no_server_error(new_server, token):
    server = new_server()
    secret = None if token is None else create_token(server.database, "test", [token])[1]
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in CHECKS]

    def run(operation):
        @settings(
            max_examples=5,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
            database=None,
            phases=[Phase.generate],
        )
        @given(case=operation.as_strategy())
        def ask(case):
            case.call_and_validate(headers=headers, checks=checks)

        ask()

    for operation in schema.get_all_operations():
        run(operation.ok())
