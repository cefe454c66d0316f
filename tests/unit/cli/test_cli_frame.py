"""The frame: every ending is one line and an exit code, and help is quick."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from deptbus.cli import main as frame
from deptbus.errors import BusUnreachable, DeptbusError, Exit, FileProblems, Problem

CANARY = "330106199001011234"


@pytest.fixture
def failing(monkeypatch):
    """A function that makes `deptbus worker` end in a given way."""

    def make(ending: BaseException | int) -> None:
        app = typer.Typer()

        @app.command()
        def worker() -> None:
            if isinstance(ending, int):
                raise typer.Exit(ending)
            raise ending

        monkeypatch.setattr(frame, "load_noun", lambda name, noun: typer.main.get_command(app))

    return make


@pytest.mark.parametrize(
    ("ending", "code", "line"),
    [
        (
            BusUnreachable("no broker answers", mend="Start it"),
            2,
            "deptbus: no broker answers. Start it\n",
        ),
        (DeptbusError("nothing to do"), 2, "deptbus: nothing to do\n"),
        (KeyboardInterrupt(), 2, "deptbus: stopped before the end\n"),
        (typer.Abort(), 2, "deptbus: stopped before the end\n"),
        (SystemExit(1), 1, ""),
        (0, 0, ""),
        (1, 1, ""),
    ],
)
def test_every_ending_has_its_code_and_its_line(failing, capsys, ending, code, line):
    failing(ending)
    assert frame.run(["worker"]) == code
    assert capsys.readouterr().err == line


def test_an_error_s_own_exit_code_counts(failing, capsys):
    error = DeptbusError("it differs")
    error.exit_code = Exit.ANSWER_IS_NO
    failing(error)
    assert frame.run(["worker"]) == 1


def test_problems_of_files_are_all_told_one_line_each(failing, capsys):
    problems = [Problem("a.yml", 3, "wrong", "Mend it"), Problem("b.yml", 0, "gone", "Make it")]
    failing(FileProblems(problems))
    assert frame.run(["worker"]) == 1
    assert capsys.readouterr().err == (
        "a.yml:3: wrong. Mend it\nb.yml: gone. Make it\ndeptbus: 2 problems found\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], r"deptbus: No such command 'nonsense'. See `deptbus --help`\n"),
        (["--nonsense"], r"deptbus: No such option: --nonsense. See `deptbus --help`\n"),
        (
            ["worker", "--processes", "x"],
            r"deptbus: Invalid value for '--processes': .+ integer. See `deptbus worker --help`\n",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, arguments, told):
    assert frame.run(arguments) == 2
    assert re.fullmatch(told, capsys.readouterr().err)


def test_a_noun_without_its_verb_shows_the_verbs(capsys):
    assert frame.run(["contract"]) == 2
    assert "activate" in capsys.readouterr().out


def test_our_own_bug_is_one_line_and_its_report_holds_no_content(
    failing, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv(frame.DEBUG, raising=False)
    try:
        try:
            raise ValueError(f"cannot read {CANARY}")
        except ValueError as cause:
            raise KeyError(CANARY) from cause
    except KeyError as error:
        failing(error)
    assert frame.run(["worker"]) == 70
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("deptbus: our own bug: KeyError. The traceback is in ")
    (report,) = tmp_path.rglob("*.log")
    assert str(report) in told
    text = report.read_text(encoding="utf-8")
    assert "builtins.KeyError" in text
    assert "builtins.ValueError" in text
    assert "test_cli_frame.py" in text
    assert CANARY not in text + told


def test_debug_shows_the_traceback(failing, capsys, monkeypatch):
    monkeypatch.setenv(frame.DEBUG, "1")
    failing(KeyError("x"))
    assert frame.run(["worker"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_report_that_cannot_be_written_is_told(failing, capsys, tmp_path, monkeypatch):
    (tmp_path / "deptbus").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv(frame.DEBUG, raising=False)
    failing(KeyError("x"))
    assert frame.run(["worker"]) == 70
    assert "No report could be written" in capsys.readouterr().err


def test_no_bus_named_says_how_to_start_one(capsys, monkeypatch):
    for name in ("DEPTBUS_BOOTSTRAP", "DEPTBUS_CLIENT_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert frame.run(["operations", "run"]) == 2
    assert "deptbus up --embedded" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_failure():
    """`deptbus contract show | head -1`"""
    command = [sys.executable, "-m", "deptbus.cli.main", "contract", "show", "-o", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_help_imports_no_room():
    """It stays quick whatever the rooms import: only the frame is loaded."""
    code = (
        "import sys; from deptbus.cli.main import run; run(['--help']);"
        "print(*sorted(m for m in sys.modules if m.startswith('deptbus')), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    named = ["deptbus", "deptbus.cli", "deptbus.cli.main", "deptbus.errors", "deptbus.lean"]
    assert done.stderr.split() == named
    assert "department" in done.stdout


def test_help_is_quick():
    """By the CPU that it takes: the machine may have other work."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "deptbus.cli.main", "--help"]
        subprocess.run(command, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_the_version_is_that_of_the_package(capsys):
    import deptbus

    assert frame.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == deptbus.__version__


def test_check_tells_every_problem_of_a_folder(capsys, tmp_path):
    assert frame.run(["contract", "check", str(tmp_path)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 5
    assert all(Path(line.split(":")[0]).parent == tmp_path for line in told[:4])


def test_show_of_an_unknown_unit_names_the_nearest(capsys, monkeypatch):
    monkeypatch.delenv("DEPTBUS_BOOTSTRAP", raising=False)
    assert frame.run(["contract", "show", "--unit", "housing@330107"]) == 2
    assert "housing@330106" in capsys.readouterr().err


def test_show_prints_one_json_document(capsys, monkeypatch):
    import json

    monkeypatch.delenv("DEPTBUS_BOOTSTRAP", raising=False)
    assert frame.run(["contract", "show", "--unit", "housing@330106", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["publishes"] == ["housing_unit"]
    (resident,) = [f for f in found["receives"] if f["dataset"] == "resident"]
    assert resident["direction"] == "horizontal"
    assert "phone" not in resident["fields"]
    assert {"dataset": "resident", "field": "religion"}.items() <= next(
        w for w in found["withheld"] if w["field"] == "religion"
    ).items()
