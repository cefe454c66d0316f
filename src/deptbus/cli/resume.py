"""`deptbus resume`: let held deliveries go on, and make good what was kept back."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Operator, Reason, connect, who

app = typer.Typer(help="Let held deliveries go on, and make good what was kept back.")


@app.command()
def resume(
    unit: Annotated[str, typer.Option("--unit", help="Deliveries to this unit.")] = "",
    dataset: Annotated[str, typer.Option("--dataset", help="Deliveries of this dataset.")] = "",
    reason: Reason = "",
    operator: Operator = None,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until what was kept back is delivered."),
    ] = True,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Lift a hold: every recipient that it concerned gets the present state of what it may have, or
    withdrawals. May be stopped anywhere: what is left to do goes on by itself where `deptbus
    operations run` runs."""
    from deptbus.cli.contract_view import wait_for_recipients
    from deptbus.cli.hold import check_target
    from deptbus.operations import audit
    from deptbus.operations.hold import resume as lift

    check_target(unit, dataset)
    connection = connect(data, bootstrap, client_file)
    why, by = audit.checked_reason(reason), audit.operator_of(connection, who(operator))
    policy = asyncio.run(lift(connection, unit, dataset, by, why))
    print(f"policy {policy.number} lets {unit or dataset} go on")
    if wait:
        asyncio.run(wait_for_recipients(connection))
