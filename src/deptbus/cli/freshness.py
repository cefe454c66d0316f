"""`deptbus freshness`: which source units keep the promises of their datasets."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Output, OutputOption, connect
from deptbus.errors import DeptbusError

app = typer.Typer(help="Show which source units keep the promises of their datasets.")


@app.command()
def freshness(
    unit: Annotated[
        str | None, typer.Option("--unit", help="Only this unit, `line@territory`.")
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only this dataset.")] = None,
    only_bad: Annotated[
        bool, typer.Option("--only-bad", help="Only what somebody has to look at.")
    ] = False,
    output: OutputOption = Output.TABLE,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> int:
    """Show which source units keep the promises of their datasets, by when each was refreshed last.

    Exit code 1 when one is late or silent, 2 when it could not be told.
    """
    from deptbus.cli.lag_view import freshness_table
    from deptbus.operations.freshness_report import (
        freshness_document,
        freshness_exit_code,
        look_at_freshness,
    )

    rows = asyncio.run(look_at_freshness(connect(data, bootstrap, client_file)))
    shown = [r for r in rows if unit in (None, r.unit) and dataset in (None, r.dataset)]
    if rows and not shown:
        raise DeptbusError(
            "no unit of the contract in force publishes that",
            mend="See `deptbus contract show` for what each publishes",
        )
    document = freshness_document(shown, time.time(), only_bad=only_bad)
    if output is Output.JSON:
        print(json.dumps(document, ensure_ascii=False))
    else:
        freshness_table(document)
    return freshness_exit_code(shown)
