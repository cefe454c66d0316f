"""The command line's frame: finds the command, turns every ending into one line and an exit code.

Exit codes (design, section 7): 0 done or yes; 1 the answer is no; 2 could not be done, also a usage
error and Ctrl-C; 70 our own bug.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from deptbus import __version__
from deptbus.errors import DeptbusError, Exit, FileProblems

DEBUG = "DEPTBUS_DEBUG"

# The errors of the command-line parser are reached through their one public member: the parser
# itself is a private part of typer, and which package it is differs between typer's releases.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
ParserError: type[Exception] = UsageError.__bases__[0]


class Noun(NamedTuple):
    """One word of the command line: the module `deptbus.cli.<module>` has it as `app`."""

    module: str
    is_group: bool  # the noun has verbs under it
    help: str


# Nouns are named here so that `deptbus --help` imports none of them; a test compares each line with
# its module.
NOUNS: dict[str, Noun] = {
    "demo": Noun("demo", False, "Run a whole county on this machine and prove its copies equal."),
    "up": Noun("up", False, "Run the bus on this machine until it is stopped."),
    "fetch": Noun("fetch", False, "Fill a folder with all that a machine without network needs."),
    "contract": Noun("contract", True, "Check, show and activate what was agreed."),
    "department": Noun("department", True, "Join a department's own database to the bus."),
    "worker": Noun("worker", False, "Run the agents that carry changes to their recipients."),
    "operations": Noun("operations", True, "Run jobs and the keeper of the canonical topics."),
    "hold": Noun("hold", False, "Stop deliveries to a unit or of a dataset; nothing is lost."),
    "resume": Noun("resume", False, "Let held deliveries go on, and make good what was kept back."),
    "quarantine": Noun("quarantine", True, "List and resolve what the bus could not accept."),
    "proposal": Noun(
        "proposal", True, "See what one operator proposed, and confirm or decline it as another."
    ),
    "replay": Noun(
        "replay", True, "Give a recipient again what it lost: plan, apply, watch, steer."
    ),
    "trace": Noun(
        "trace", False, "Follow one record over the bus: where it went, and where it waits."
    ),
    "reconcile": Noun(
        "reconcile", False, "Prove copies equal to their sources, and mend exactly what differs."
    ),
    "rebuild": Noun(
        "rebuild", True, "Make a copy anew beside the one in use, prove it, and swap them."
    ),
    "certificate": Noun("certificate", True, "Verify certificates of proofs; keep their key."),
    "audit": Noun("audit", True, "Show what operators did, when and why."),
    "status": Noun("status", False, "Show on one screen whether all is well, and whom to ring."),
    "lag": Noun("lag", False, "Show who is behind, by how much time, and why."),
    "freshness": Noun(
        "freshness", False, "Show which source units keep the promises of their datasets."
    ),
    "saved": Noun("saved", False, "Show how many entries nobody typed, and count them again."),
    "monitor": Noun(
        "monitor", False, "Watch the bus: figures for Prometheus, alarms, a schema registry."
    ),
    "alarm": Noun("alarm", True, "List alarms and acknowledge them."),
    "groups": Noun("groups", False, "Show every consumer group of the cluster."),
    "console": Noun("console", True, "Serve the web page of the data office."),
    "topics": Noun("topics", True, "Plan and apply the topics that a contract needs."),
}


class LazyGroup(TyperGroup):
    """The root group: a noun's module is imported when that noun is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        noun = NOUNS.get(cmd_name)
        return None if noun is None else load_noun(cmd_name, noun)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, noun.help) for name, noun in NOUNS.items()])


def load_noun(name: str, noun: Noun) -> Any:
    """The parser's command of one noun; logging is set up first, because the noun will need it."""
    from deptbus.logs import set_up_logging

    set_up_logging()
    app: typer.Typer = import_module(f"deptbus.cli.{noun.module}").app
    command = typer.main.get_group(app) if noun.is_group else typer.main.get_command(app)
    command.name = name
    # The parser gives options about shell completion to every command that has no verbs.
    command.params = [p for p in command.params if not str(p.name).endswith("_completion")]
    return command


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=False,
    invoke_without_command=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root(
    ctx: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Carry a change made in one department's database to every department that may have it."""
    if version:
        print(__version__)
    elif ctx.invoked_subcommand is None:
        print(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command `deptbus`: runs one command and ends the process with its code."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; tells every error in one line on stderr."""
    try:
        answer = app(arguments, prog_name="deptbus", standalone_mode=False)
        sys.stdout.flush()
    except FileProblems as problems:
        for problem in problems.problems:
            print(problem, file=sys.stderr)
        _tell(problems.what)
        return problems.exit_code
    except DeptbusError as error:
        _tell(str(error))
        return error.exit_code
    except BrokenPipeError:
        return _reader_went_away()
    except (KeyboardInterrupt, typer.Abort):
        _tell("stopped before the end")
        return Exit.COULD_NOT
    except ParserError as error:
        return _usage_error(error)
    except SystemExit as ending:
        if isinstance(ending.__context__, BrokenPipeError):  # the parser met it first
            return _reader_went_away()
        return _code_of(ending.code)
    except Exception as error:  # noqa: BLE001 - the last door: whatever is left is our own bug
        return _own_bug(error)
    if answer == 130:  # the parser makes this of Ctrl-C; what was cut short could not be done
        _tell("stopped before the end")
        return Exit.COULD_NOT
    return _code_of(answer)


def _tell(line: str) -> None:
    print(f"deptbus: {line}", file=sys.stderr)


def _code_of(answer: object) -> int:
    return int(answer) if isinstance(answer, int) else int(Exit.DONE)


def _usage_error(error: Exception) -> int:
    path = getattr(getattr(error, "ctx", None), "command_path", "deptbus")
    message = error.format_message().rstrip(".").replace("\n", " ")  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        message = "a verb is missing"
    _tell(f"{message}. See `{path} --help`")
    return Exit.COULD_NOT


def _reader_went_away() -> int:
    """`deptbus ... | head`: not our failure. What stdout still holds goes nowhere, in silence."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.DONE


def _own_bug(error: Exception) -> int:
    if os.environ.get(DEBUG) == "1":
        traceback.print_exception(error)
        _tell(f"our own bug: {type(error).__name__}")
        return Exit.OUR_BUG
    try:
        where = f"The traceback is in {_write_report(error)}"
    except OSError as refused:
        where = f"No report could be written ({refused.strerror})"
    _tell(f"our own bug: {type(error).__name__}. {where}; {DEBUG}=1 shows all of it")
    return Exit.OUR_BUG


def _write_report(error: BaseException) -> Path:
    """Writes where it happened to a file and returns its path.

    Only types and places are written, never an exception's message: a message may quote the content
    of a record (promise 4).
    """
    import platformdirs

    folder = platformdirs.user_state_path("deptbus") / "bugs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    lines = [f"deptbus {__version__}, Python {sys.version.split()[0]}\n"]
    link: BaseException | None = error
    while link is not None:
        lines += [f"{type(link).__module__}.{type(link).__qualname__}\n"]
        lines += traceback.format_tb(link.__traceback__)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    path.write_text("".join(lines), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
