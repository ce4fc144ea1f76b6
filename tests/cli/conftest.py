import json

import pytest
from typer.testing import CliRunner

import gharial
from latency_model.errors import GharialError


class Result:
    def __init__(self, result):
        self.result = result
        error = result.exception
        self.error = str(error) if isinstance(error, GharialError) else ""
        self.exit_code = error.exit_code if isinstance(error, GharialError) else result.exit_code
        if error is not None and not isinstance(error, GharialError | SystemExit):
            raise error

    @property
    def json(self):
        return json.loads(self.result.stdout)

    @property
    def stdout(self):
        return self.result.stdout


@pytest.fixture(scope="session")
def gh():
    """Run `gharial ARGS…` in this process; errors of ours come back as one sentence and an exit code."""

    def run(*args):
        return Result(CliRunner().invoke(gharial.app, [str(arg) for arg in args]))

    return run


@pytest.fixture(scope="session")
def fake_table(gh, tmp_path_factory):
    """A table of the demo network on the fake device."""
    path = tmp_path_factory.mktemp("table") / "fake.parquet"
    result = gh("profile", "digits_resnet", "--runtime", "fake", "--step", "8", "--out", path, "--json")
    assert result.exit_code == 0
    return path
