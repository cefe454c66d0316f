"""`deptbus status`: the whole bus on one screen, in words."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Output, OutputOption, connect
from deptbus.errors import DeptbusError

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.operations.lag_watch import LagReport
    from deptbus.operations.status import Beside

app = typer.Typer(help="Show on one screen whether all is well, and whom to ring.")


@app.command()
def status(
    output: OutputOption = Output.TABLE,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> int:
    """Show on one screen whether all is well; if not, whom to ring, what to type, and until when
    it is safe to wait.

    Exit code 0: all is well; 1: something needs a person; 2: it could not be told.
    """
    from deptbus.cli.status_view import status_screen
    from deptbus.operations.status import status_document, status_exit_code

    report, beside = asyncio.run(_look(connect(data, bootstrap, client_file)))
    if not report.has_contract:
        raise DeptbusError(
            "no contract is in force on this bus",
            mend="Activate one with `deptbus contract activate DIR`; `deptbus groups` shows what "
            "else is on this cluster",
        )
    document = status_document(report, beside)
    if output is Output.JSON:
        print(json.dumps(document, ensure_ascii=False))
    else:
        status_screen(document)
    return status_exit_code(document)


async def _look(connection: Connection) -> tuple[LagReport, Beside]:
    from deptbus.operations.lag_watch import LagWatch
    from deptbus.operations.status import look_beside

    async with LagWatch(connection) as watch:
        report = await watch.look()
    return report, await look_beside(connection)
