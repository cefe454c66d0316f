"""`deptbus alarm`: what is open, and that a person has seen it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deptbus.cli.options import (
    Bootstrap,
    ClientFile,
    Data,
    Operator,
    Output,
    OutputOption,
    Reason,
    connect,
    instant,
    who,
)
from deptbus.errors import Exit

if TYPE_CHECKING:
    from deptbus.operations.alarms_board import Kept
    from deptbus.wire.control import AlarmTold

app = typer.Typer(help="List alarms and acknowledge them.", no_args_is_help=True)


@app.callback()
def alarm() -> None:
    """List alarms and acknowledge them."""


@app.command()
def ls(
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the alarms that are open, the worst first. Exit code 1 when one of them is not
    acknowledged."""
    from deptbus.operations.alarms_board import read_alarms

    kept = asyncio.run(read_alarms(connect(data, bootstrap, client_file)))
    rows = [_row(kept, told) for told in kept.open()]
    if output is Output.JSON:
        print(json.dumps({"alarms": rows}, ensure_ascii=False))
    else:
        _print(rows)
    if not all(row["acknowledged"] for row in rows):
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def ack(
    alarms: Annotated[
        list[str] | None, typer.Argument(help="Names of alarms, or their subjects, as ls has them.")
    ] = None,
    all_open: Annotated[bool, typer.Option("--all", help="Every alarm that is open.")] = False,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Acknowledge alarms: they are not repeated any more, unless it gets worse, and are told once
    more when they are over."""
    from deptbus.operations import audit
    from deptbus.operations.alarms_board import acknowledge, chosen, read_alarms

    if bool(alarms) == all_open:
        raise typer.BadParameter("name alarms, or give --all")
    connection = connect(data, bootstrap, client_file)
    why, by = audit.checked_reason(reason), audit.operator_of(connection, who(operator))

    async def act() -> list[AlarmTold]:
        kept = await read_alarms(connection)
        wanted = kept.open() if all_open else chosen(kept, alarms or [])
        if wanted:
            await acknowledge(connection, wanted, by, why)
        return wanted

    done = asyncio.run(act())
    for told in done:
        print(f"acknowledged {told.alarm}  {told.word} of {told.subject}")
    if not done:
        print("no alarm is open")


def _row(kept: Kept, told: AlarmTold) -> dict[str, Any]:
    said = json.loads(told.content)
    seen = kept.seen_of(told)
    return {
        "alarm": told.alarm,
        "subject": told.subject,
        "word": told.word,
        "since": instant(told.raised_at_us),
        "told_at": instant(told.told_at_us),
        "notices": told.number,
        "pending": list(told.pending),
        "owner": said.get("owner"),
        "duty": said.get("duty"),
        "advice": said.get("advice"),
        "acknowledged": None
        if seen is None
        else {"by": seen.operator, "at": instant(seen.seen_at_us), "reason": seen.reason},
    }


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        print("no alarm is open")
        return
    table = Table()
    for head in ("alarm", "what", "since", "ring", "acknowledged"):
        table.add_column(head, overflow="fold")
    for row in rows:
        duty, seen = row["duty"], row["acknowledged"]
        ring = f"{row['owner']}, {duty['name']} {duty['phone']}" if duty else row["owner"] or ""
        by = f"{seen['by']}: {seen['reason']}" if seen else "no"
        what = f"{row['word']} of {row['subject']}"
        table.add_row(*map(escape, (row["alarm"], what, row["since"], ring, by)))
    Console().print(table)
