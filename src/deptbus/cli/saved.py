"""`deptbus saved`: how many entries nobody typed, and the same counted again."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Output, OutputOption, connect
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection

app = typer.Typer(help="Show how many entries nobody typed, and count them again.")


@app.command()
def saved(
    unit: Annotated[
        str | None, typer.Option("--unit", help="Only this unit, `line@territory`.")
    ] = None,
    recount: Annotated[
        bool,
        typer.Option("--recount", help="Count again from the unit's inbox; with `--unit`."),
    ] = False,
    output: OutputOption = Output.TABLE,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> int:
    """Show how many entries nobody typed, by unit, day and dataset, as the units counted them.

    With `--recount` exit code 1 when a unit says that it applied more than it was delivered.
    """
    if recount and unit is None:
        raise DeptbusError("the inbox of which unit?", mend="Name one: --unit U")
    connection = connect(data, bootstrap, client_file)
    document = asyncio.run(_document(connection, unit, recount=recount))
    if output is Output.JSON:
        print(json.dumps(document, ensure_ascii=False))
    else:
        _print_tables(document)
    wrong = any(row["is_too_much"] for row in document.get("recount", ()))
    return Exit.ANSWER_IS_NO if wrong else Exit.DONE


async def _document(connection: Connection, unit: str | None, *, recount: bool) -> dict[str, Any]:
    """`entries` of each row are what nobody typed; `live` and `others` see docs/operations.md."""
    from deptbus.operations.saved_desk import read_saved, recount_unit

    told = await read_saved(connection)
    rows = tuple(row for row in told.rows if unit in (None, row.unit))
    found: dict[str, Any] = {
        "entries": sum(row.entries for row in rows),
        "rows": [asdict(row) for row in rows],
    }
    if recount and unit is not None:
        counted = await recount_unit(connection, unit, rows)
        found["recount"] = [asdict(one) for one in counted]
    return found


def _print_tables(document: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for name in ("rows", "recount"):
        rows = document.get(name, [])
        table = Table(box=box.SIMPLE_HEAD)
        for heading in rows[0] if rows else ():
            is_text = heading in ("unit", "dataset", "day")
            table.add_column(
                heading.replace("_", " "), justify="left" if is_text else "right", overflow="fold"
            )
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        if rows:
            console.print(table)
    console.print(f"{document['entries']:,} entries that nobody typed")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:,}" if isinstance(value, int) else str(value)
