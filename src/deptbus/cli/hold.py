"""`deptbus hold`: stop deliveries to one unit, or of one dataset, at routing; nothing is lost."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

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
    who,
)
from deptbus.errors import Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.contract.model import Hold

app = typer.Typer(help="Stop deliveries to a unit or of a dataset; nothing is lost.")

_EFFECT_SECONDS = 30.0


@app.command()
def hold(
    unit: Annotated[str, typer.Option("--unit", help="Deliveries to this unit.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", help="Deliveries of this dataset.")] = "",
    reason: Reason = "",
    operator: Operator = None,
    list_holds: Annotated[
        bool, typer.Option("--list", help="Show what is held. Exit code 1: something is.")
    ] = False,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Stop deliveries at routing until `deptbus resume`: changes are taken in meanwhile, and what
    was kept back is made good then. What lies in an inbox already is still applied."""
    from deptbus.operations import audit
    from deptbus.operations.hold import hold as begin

    connection = connect(data, bootstrap, client_file)
    if list_holds:
        _list(connection, output)
        return
    check_target(unit, dataset)
    why, by = audit.checked_reason(reason), audit.operator_of(connection, who(operator))
    policy = asyncio.run(begin(connection, unit, dataset, by, why))
    print(f"policy {policy.number} holds deliveries {_words(unit, dataset)}")
    _tell_effect(connection, policy.number)


def check_target(unit: str, dataset: str) -> None:
    if bool(unit) == bool(dataset):
        raise typer.BadParameter("give --unit or --dataset")


def _tell_effect(connection: Connection, policy: int) -> None:
    from deptbus.operations.hold import agents_that_lag

    late = asyncio.run(agents_that_lag(connection, policy, seconds=_EFFECT_SECONDS))
    if late is None:
        print("no worker is running: nothing flows, and what starts later holds too")
    elif late:
        print(f"not yet taken up by {len(late)} worker(s): they stop within the lease of 10 s")
        raise typer.Exit(Exit.ANSWER_IS_NO)
    else:
        print("every running worker holds")


def _list(connection: Connection, output: Output) -> None:
    from deptbus.stream.policies import read_policies

    holds = asyncio.run(read_policies(connection)).current().holds
    if output is Output.JSON:
        found = {"holds": [h.model_dump(mode="json") for h in holds]}
        print(json.dumps(found, ensure_ascii=False))
    else:
        print("\n".join(map(hold_line, holds)) or "nothing is held")
    if holds:
        raise typer.Exit(Exit.ANSWER_IS_NO)


def hold_line(hold: Hold) -> str:
    """One hold in one line, for whoever shows it."""
    since = f"{hold.held_at:%Y-%m-%d %H:%M} UTC"
    words = _words(hold.unit, hold.dataset)
    return f"deliveries {words} are held since {since} by {hold.held_by}: {hold.reason}"


def _words(unit: str, dataset: str) -> str:
    return f"to {unit}" if unit else f"of {dataset}"
