"""The wheel holds what an installed Gharial needs, and nothing else."""

import configparser
import importlib.util
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("latency_model", "profiler", "pruner")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed: pip install hatchling"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("gharial-*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def names(wheel):
    return [name for name in wheel.namelist() if not name.endswith("/")]


def test_every_module_is_in_it(wheel):
    found = set(names(wheel))
    wanted = {str(p.relative_to(ROOT)) for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert wanted | {"gharial.py"} <= found
    assert {f"{package}/py.typed" for package in PACKAGES} <= found


def test_the_template_of_the_report_is_in_it(wheel):
    assert "pruner/report/report.html.jinja" in names(wheel)


def test_the_tables_are_data_and_no_package(wheel):
    place = ".data/data/share/gharial/tables/"
    found = {name.split(place)[1] for name in names(wheel) if place in name}
    assert found == {path.name for path in (ROOT / "tables").iterdir() if path.is_file()}
    assert found
    assert not any(name.startswith("tables/") for name in names(wheel))


def test_nothing_else_is_in_it(wheel):
    tops = {name.split("/")[0] for name in names(wheel)}
    version = {top for top in tops if top.endswith((".dist-info", ".data"))}
    assert tops - version == {*PACKAGES, "gharial.py"}
    assert not [name for name in names(wheel) if "__pycache__" in name or "test_" in name]


def test_the_command_and_the_plug_ins_are_declared(wheel):
    (path,) = (name for name in names(wheel) if name.endswith(".dist-info/entry_points.txt"))
    points = configparser.ConfigParser(delimiters=("=",))
    points.read_file(io.StringIO(wheel.read(path).decode()))
    assert dict(points["console_scripts"]) == {"gharial": "gharial:main"}
    assert {"gator", "l1"} <= set(points["pruner.methods"])
    assert {"onnxruntime", "torch", "fake"} <= set(points["profiler.backends"])
    for section in points.sections():
        for target in points[section].values():
            module, _, attribute = target.partition(":")
            file = module.replace(".", "/") + ".py"
            assert file in names(wheel), target
            assert attribute in wheel.read(file).decode()


def test_the_metadata(wheel):
    (path,) = (name for name in names(wheel) if name.endswith(".dist-info/METADATA"))
    text = wheel.read(path).decode()
    assert "Name: gharial\n" in text
    assert any(name.endswith("/LICENSE") for name in names(wheel))


def test_it_runs_from_the_wheel_alone(wheel, tmp_path):
    """Unpacked elsewhere, the command starts and every package is taken from there."""
    wheel.extractall(tmp_path)
    code = (
        "import gharial, latency_model, profiler, pruner, sys\n"
        "print(all(m.__file__.startswith(sys.argv[1]) for m in (gharial, latency_model, profiler, pruner)))\n"
        "sys.argv = ['gharial', 'methods', '--json']\n"
        "gharial.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True\n")
    assert '"gator"' in done.stdout
