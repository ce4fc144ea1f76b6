"""What a person sees: one sentence for a mistake, exit codes, and text that is printed as it is."""

import collections
import io
import json
import signal
import subprocess
import sys
import time

import pytest
import typer

import latency_model.console as console
from latency_model.errors import BudgetError, GharialError, InputError, MeasurementError
from latency_model.table import LatencyTable

MARKUP = ("[red]x", "[/]", "[/red]", "[bold]x[/bold]", "a[0]", "\\[red]", "[link=x]")


def app_that(action):
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

    @app.command()
    def main(count: int = 1):
        action()

    return app


def run(action, monkeypatch, capsys, *args):
    """Run a command as the console script does; return its exit code, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["gharial", *args])
    try:
        console.run(app_that(action))
        code = 0
    except SystemExit as end:
        code = end.code or 0
    said = capsys.readouterr()
    return code, said.out, said.err


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("kind", "code"), [(InputError, 2), (BudgetError, 2), (MeasurementError, 1), (GharialError, 1)]
)
def test_an_error_of_ours_is_one_sentence_and_its_exit_code(monkeypatch, capsys, kind, code):
    found = run(raising(kind("no such thing: x; try y")), monkeypatch, capsys)
    assert found == (code, "", "error: no such thing: x; try y\n")


def test_a_long_sentence_is_one_line(monkeypatch, capsys):
    sentence = "word " * 100 + "end"
    assert run(raising(InputError(sentence)), monkeypatch, capsys)[2] == f"error: {sentence}\n"


@pytest.mark.parametrize("text", MARKUP)
def test_errors_are_printed_as_they_are(monkeypatch, capsys, text):
    assert run(raising(InputError(f"see {text}")), monkeypatch, capsys)[2] == f"error: see {text}\n"


@pytest.mark.parametrize("text", MARKUP)
@pytest.mark.parametrize("stream", ["out", "err"])
def test_the_consoles_print_text_as_it_is(capsys, stream, text):
    getattr(console, stream).print(text, highlight=False)
    assert getattr(capsys.readouterr(), stream) == f"{text}\n"


@pytest.mark.parametrize("text", MARKUP)
def test_progress_shows_text_as_it_is(monkeypatch, text):
    from rich.console import Console

    shown = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None, markup=False)
    monkeypatch.setattr(console, "err", shown)
    with console.progress() as bar:
        bar.add_task(f"task {text}", total=2, completed=1, note=f"note {text}")
        bar.refresh()
    printed = shown.file.getvalue()
    assert f"task {text}" in printed
    assert f"note {text}" in printed


def test_a_usage_error_exits_with_2(monkeypatch, capsys):
    for args in (("--nothing",), ("--count", "many")):
        code, out, err = run(lambda: None, monkeypatch, capsys, *args)
        assert (code, out) == (2, "")
        assert "Usage" in err


def test_success_says_nothing(monkeypatch, capsys):
    assert run(lambda: None, monkeypatch, capsys) == (0, "", "")


def test_other_errors_keep_their_traceback(monkeypatch, capsys):
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0, monkeypatch, capsys)


def test_json_is_one_document_without_nan(capsys):
    console.print_json({"a": [1, 2.5, None], "b": "[red]µ"})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"a": [1, 2.5, None], "b": "[red]µ"}
    assert said.err == ""
    with pytest.raises(ValueError, match="JSON"):
        console.print_json({"a": float("nan")})


def test_a_closed_pipe_is_not_an_error():
    code = (
        "import typer, latency_model.console as c\n"
        "app = typer.Typer()\n"
        "@app.command()\n"
        "def main():\n"
        "    c.print_json(list(range(200_000)))\n"
        "c.run(app)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) == 0
    assert said == ""


SLOW = """
import signal
# A background job of a shell inherits an ignored SIGINT, and Python then leaves it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from pathlib import Path
import profiler.backends.fake as fake

made, measure = fake.FakeDevice.__init__, fake.FakeDevice.measure
log, delay_s = Path(sys.argv.pop(1)), float(sys.argv.pop(1))

def init(self, **options):
    made(self, delay_s=delay_s, **options)

def logged(self, shape, *, run_id):
    row = measure(self, shape, run_id=run_id)
    with log.open("a") as stream:
        stream.write(shape.text + "\\n")
    return row

fake.FakeDevice.__init__, fake.FakeDevice.measure = init, logged
import gharial
gharial.main()
"""


@pytest.fixture
def slow_profile(tmp_path):
    out, log = tmp_path / "[/]" / "table.parquet", tmp_path / "log"
    command = [sys.executable, "-c", SLOW, str(log)]
    arguments = ["profile", "digits_resnet", "--runtime", "fake", "--step", "16", "--no-networks"]
    arguments += ["--in-process"]  # the back end is patched in this process only
    arguments += ["--out", str(out)]

    def start(delay_s):
        return subprocess.Popen(
            [*command, str(delay_s), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines():
        return log.read_text().splitlines() if log.exists() else []

    return start, lines, out


def test_ctrl_c_resumes_and_measures_nothing_twice(slow_profile):
    start, lines, out = slow_profile
    process = start(0.05)
    try:
        deadline = time.monotonic() + 60
        while len(lines()) < 8 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "interrupted; the same command goes on where it stopped" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    first = lines()
    kept = {shape.text for shape in LatencyTable.load(out)}
    # The row in work at the moment of the interrupt may be measured and not yet kept.
    assert len(set(first)) - 1 <= len(kept) <= len(set(first))
    assert [path.name for path in out.parent.iterdir()] == ["table.parquet"]

    second = start(0)
    stdout, stderr = second.communicate(timeout=60)
    assert second.returncode == 0, stderr
    assert str(out.parent.name) in stdout + stderr
    table = LatencyTable.load(out)
    again = lines()[len(first) :]
    assert len(table) > len(kept)
    # Only the sentinel, which looks for drift, is measured a second and a third time.
    repeated = collections.Counter(again)
    sentinels = [text for text, times in repeated.items() if times > 1]
    assert len(sentinels) <= 1
    assert not (set(again) & kept) - set(sentinels)
    assert {shape.text for shape in (*table, *table.ops)} == kept | set(again)
