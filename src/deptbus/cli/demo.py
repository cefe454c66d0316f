"""`deptbus demo`: run a whole county on this machine and prove its copies equal."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import From, take_from, who
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from deptbus.demo.run import Outcome, Stage
    from deptbus.demo.story import Told
    from deptbus.demo.witness import Seen

app = typer.Typer(help="Run a whole county on this machine and prove its copies equal.")


@app.command()
def demo(
    residents: Annotated[
        int, typer.Option("--residents", min=20, max=1_000_000, help="People of the county.")
    ] = 2000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=3600, help="Length of the working day.")
    ] = 15,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", help="Keep the county in this new folder; `up --data` goes on."),
    ] = None,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="District offices live in PostgreSQL.")
    ] = False,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Kill workers and adapters all day long.")
    ] = False,
    console: Annotated[
        bool,
        typer.Option("--console", help="Keep the console open, with clerks at work, until Ctrl-C."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the last line only: one JSON object.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", help="Draws the same county again.")] = 2026,
    fetched: From = None,
) -> None:
    """Build the bundled county with synthetic people, let its clerks work while the bus runs, and
    prove every copy equal. Exit code 1 when a copy differs or a mistake was not stopped; with
    `--console` Ctrl-C is no failure."""
    from deptbus.demo.run import Plan, run

    take_from(fetched)
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise DeptbusError(f"{keep} is not empty", mend="Name a folder that is empty or absent")
    # SIGTERM ends the demonstration the way Ctrl-C does: the bus is stopped, the folder removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = keep or Path(tempfile.mkdtemp(prefix="deptbus-demo-"))
    stage = _stage(folder, as_json=as_json)
    try:
        outcome = run(Plan(folder, residents, seconds, postgres, chaos, seed, console), stage)
    finally:
        stage.close()
        if keep is None:
            _remove(folder, postgres)
    if not outcome.is_well:
        raise typer.Exit(Exit.ANSWER_IS_NO)


def _stage(folder: Path, *, as_json: bool) -> Stage:
    from rich.console import Console

    from deptbus.demo.run import Silence

    if as_json:
        return Silence(_print_last_line)
    return _Screen(Console(highlight=False), folder)


def _print_last_line(outcome: Outcome) -> None:
    print(json.dumps(outcome.as_json(), ensure_ascii=False), flush=True)


def _remove(folder: Path, postgres: bool) -> None:
    if postgres:
        from deptbus.cluster.postgres import PostgresServer
        from deptbus.demo.run import POSTGRES_FOLDER

        PostgresServer(folder / POSTGRES_FOLDER).destroy()
    shutil.rmtree(folder, ignore_errors=True)


class _Screen:
    """What the demonstration says, and a picture of what moves, on a terminal or in a log."""

    def __init__(self, console: Console, folder: Path) -> None:
        self._console, self._folder = console, folder
        self._live: Live | None = None

    def say(self, line: str) -> None:
        self.close()
        # Not wrapped: a line may hold an address that somebody copies.
        self._console.print(f"[bold]·[/bold] {line}", soft_wrap=True)

    def show(self, seen: Seen, edits: Counter[str], killed: Counter[str]) -> None:
        from rich.live import Live

        if not self._console.is_terminal:
            return
        if self._live is None:
            self._live = Live(console=self._console, refresh_per_second=8, transient=True)
            self._live.start()
        self._live.update(_moving(seen, edits, killed))

    def console(self) -> str | None:
        """On a terminal with a link that lets one browser in once; elsewhere it would stand in a
        log."""
        from deptbus.cli.console import address_in, link_of

        try:
            if sys.stdout.isatty():
                return f"the console: {link_of(self._folder, who(None))}"
            return (
                f"the console is at {address_in(self._folder)}; for a link that lets you in: "
                f"deptbus console link --data {self._folder}"
            )
        except DeptbusError:
            return None

    def tell(self, outcome: Outcome) -> None:
        self.close()
        for part in _report(outcome):
            self._console.print(part)
        _print_last_line(outcome)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def _moving(seen: Seen, edits: Counter[str], killed: Counter[str]) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    table = Table(title="what moves", title_justify="left")
    for heading in ("direction", "deliveries"):
        table.add_column(heading, justify="right" if heading == "deliveries" else "left")
    for direction, count in seen.by_direction.items():
        table.add_row(str(direction), f"{count:,}")
    clerks = ", ".join(f"{kind} {count}" for kind, count in edits.most_common())
    lines = [f"clerks: {clerks}", *seen.recent]
    if killed:
        lines.insert(1, "killed: " + ", ".join(f"{n} {c}x" for n, c in killed.items()))
    return Group(table, *lines)


def _report(outcome: Outcome) -> list[RenderableType]:
    from rich.table import Table

    parts: list[RenderableType] = []
    if outcome.story is not None:
        told = Table(title="The police moved one resident, once. Nobody else typed it.")
        told.add_column("who", no_wrap=True)
        told.add_column("after", no_wrap=True, justify="right")
        told.add_column("fields")
        told.add_column("no more typed on", no_wrap=True)
        for line in outcome.story.moved_in:
            told.add_row(line.unit, _ms(line), ", ".join(line.fields), line.form)
        for line in outcome.story.gone_from:
            told.add_row(line.unit, _ms(line), "withdrawn: no longer theirs", line.form)
        parts.append(told)
    stopped = Table(title="Mistakes made on purpose")
    for heading in ("what", "became", "where"):
        stopped.add_column(heading)
    for mistake in outcome.mistakes:
        stopped.add_row(mistake.what, mistake.outcome, mistake.where)
    parts.append(stopped)
    verdict = outcome.verdict
    if verdict.equal:
        parts.append(f"Referee: {verdict.copies} copies, {verdict.rows:,} rows: all equal.")
    else:
        parts += [f"Referee: {difference}" for difference in verdict.differences]
    if outcome.canary_found:
        parts.append(f"A value that is never shared was found in {outcome.canary_found}!")
    if outcome.killed:
        parts.append("Killed: " + ", ".join(f"{n} {c} times" for n, c in outcome.killed.items()))
    return parts


def _ms(told: Told) -> str:
    return f"{told.milliseconds:.0f} ms"
