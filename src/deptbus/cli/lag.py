"""`deptbus lag`: who is behind, by how much time, at which stage, and what is to be done."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Output, OutputOption, connect
from deptbus.errors import BusUnreachable, DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.operations.lag_watch import LagReport

app = typer.Typer(help="Show who is behind, by how much time, and why.")

WATCH_SECONDS = 2.0


@app.command()
def lag(
    unit: Annotated[
        str | None, typer.Option("--unit", help="Only this unit, `line@territory`.")
    ] = None,
    only_bad: Annotated[
        bool, typer.Option("--only-bad", help="Only what somebody has to look at.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until it is stopped.")
    ] = False,
    promise_seconds: Annotated[
        float,
        typer.Option(
            "--promise-seconds", min=1, help="A record that is unread for longer is late."
        ),
    ] = 60.0,
    output: OutputOption = Output.TABLE,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> int:
    """Show who is behind, by how much time, and why; of groups that are not deptbus's too.

    Exit code 1 when something needs a person, 2 when it could not be told.
    """
    connection = connect(data, bootstrap, client_file)
    shown = _Shown(unit, only_bad, output, watch)
    try:
        return asyncio.run(_look(connection, shown, promise_seconds))
    except KeyboardInterrupt:
        if not watch or shown.code is None:
            raise
        return shown.code


class _Shown:
    """How one look is printed, and the exit code that it means."""

    def __init__(self, unit: str | None, only_bad: bool, output: Output, watch: bool) -> None:
        self._unit, self._only_bad, self._output = unit, only_bad, output
        self.watch = watch
        self.code: Exit | None = None

    def could_not(self, error: BusUnreachable) -> None:
        """A watch goes on: whoever keeps it open waits for just this to be over."""
        self.code = Exit.COULD_NOT
        print(f"deptbus: {error}", file=sys.stderr, flush=True)

    def show(self, report: LagReport) -> None:
        from deptbus.cli.lag_view import lag_table
        from deptbus.operations.lag_report import exit_code, lag_document

        units = [u for u in report.units if self._unit in (None, u.unit)]
        if self._unit is not None and not units:
            raise DeptbusError(
                f"the contract in force has no unit {self._unit}",
                mend="See `deptbus contract show` for those that it has",
            )
        verdicts = [u.verdict for u in units]
        if not report.has_contract:
            verdicts = [track.verdict for track in report.picture.tracks.values()]
        self.code = exit_code(verdicts, is_whole=report.picture.is_whole)
        document = lag_document(report, unit=self._unit, only_bad=self._only_bad)
        if self._output is Output.JSON:
            print(json.dumps(document, ensure_ascii=False), flush=True)
            return
        if self.watch and sys.stdout.isatty():
            print("\x1b[2J\x1b[H", end="")
        lag_table(report, document)


async def _look(connection: Connection, shown: _Shown, promise_seconds: float) -> int:
    from deptbus.operations.lag_watch import LagWatch
    from deptbus.operations.verdicts import Limits

    async with LagWatch(connection, Limits(promise_seconds=promise_seconds)) as lag_watch:
        while True:
            try:
                shown.show(await lag_watch.look())
            except BusUnreachable as error:
                if not shown.watch:
                    raise
                shown.could_not(error)
            if not shown.watch:
                assert shown.code is not None
                return shown.code
            await asyncio.sleep(WATCH_SECONDS)
