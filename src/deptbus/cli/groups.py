"""`deptbus groups`: every consumer group of the cluster and how far it is behind."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Output, OutputOption, connect
from deptbus.errors import Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.operations.lag_watch import LagReport

app = typer.Typer(help="Show every consumer group of the cluster.")


@app.command()
def groups(
    output: OutputOption = Output.TABLE,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> int:
    """Show every consumer group of the cluster, deptbus's or not: its state and how far behind.

    Exit code 2 when a broker did not answer, so that some group may be missing.
    """
    from deptbus.cli.lag_view import groups_table
    from deptbus.operations.lag_report import groups_document

    document = groups_document(asyncio.run(_look(connect(data, bootstrap, client_file))))
    if output is Output.JSON:
        print(json.dumps(document, ensure_ascii=False))
    else:
        groups_table(document)
    return Exit.DONE if document["is_whole"] else Exit.COULD_NOT


async def _look(connection: Connection) -> LagReport:
    from deptbus.operations.lag_watch import LagWatch

    async with LagWatch(connection) as watch:
        return await watch.look()
