"""`deptbus trace`: one record's way over the bus, and where it waits now; never its content."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import (
    Bootstrap,
    ClientFile,
    Data,
    Output,
    OutputOption,
    bus_key,
    connect,
)
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.contract.model import Contract

app = typer.Typer(help="Follow one record over the bus: where it went, and where it waits.")


@app.command()
def trace(
    dataset: Annotated[str, typer.Option("--dataset", help="The dataset of the record.")],
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="The bus key: 32 hexadecimal digits.")
    ] = None,
    natural: Annotated[
        list[str] | None,
        typer.Option(
            "--natural",
            help="The natural key as typed, once for each of its parts; `-` reads them, line by "
            "line, so that no other user of the machine sees them.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="department.yml of the source, which has its key secret."),
    ] = None,
    unit: Annotated[str, typer.Option("--unit", help="The source unit, where it is known.")] = "",
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long is looked.")] = 30.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show every version, what was delivered to whom by which rule and grant, and where it waits.
    Exit code 1: it waits somewhere, or there is no such record; 2: not all could be looked at."""
    from deptbus.cli.trace_view import document, print_trace
    from deptbus.operations.search import deadline_in
    from deptbus.operations.trace import Trace
    from deptbus.operations.trace_desk import trace as follow
    from deptbus.stream.policies import read_policies

    if (key is None) == (not natural):
        raise typer.BadParameter("give KEY or --natural")
    connection = connect(data, bootstrap, client_file)

    async def find() -> Trace:
        history = await read_policies(connection)
        source = unit
        if natural:
            source, wanted = _of_natural(config, dataset, history.current().contract, natural)
        else:
            wanted = bus_key(key or "")
        deadline = deadline_in(seconds)
        return await follow(connection, history, dataset, wanted, unit=source, deadline=deadline)

    found = asyncio.run(find())
    if output is Output.JSON:
        print(json.dumps(document(found), ensure_ascii=False))
    else:
        print_trace(found)
    if found.not_looked_at:
        raise typer.Exit(Exit.COULD_NOT)
    if found.waits or not found.versions:
        raise typer.Exit(Exit.ANSWER_IS_NO)


def _of_natural(
    config: Path | None, dataset: str, contract: Contract, natural: list[str]
) -> tuple[str, bytes]:
    """(source unit, bus key). Only the place that has the unit's secret can make it."""
    from deptbus.contract.department import load_department
    from deptbus.department.install import key_of_natural

    if config is None:
        raise DeptbusError(
            "a natural key becomes a bus key only under its unit's own secret",
            mend="Give --config FILE, the source's department.yml, where its secret lies",
        )
    department = load_department(config)
    typed = [line.rstrip("\n") for line in sys.stdin] if natural == ["-"] else natural
    return department.unit, key_of_natural(department, dataset, contract, tuple(typed))
