"""`deptbus rebuild`: make a recipient's copy of a dataset anew, prove it, and put it in place."""

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
    who,
)
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.operations.replay_apply import Standing
    from deptbus.wire.control import RebuildTold

app = typer.Typer(
    help="Make a copy anew beside the one in use, prove it, and swap them.",
    invoke_without_command=True,
    no_args_is_help=False,
)

Job = Annotated[str, typer.Argument(metavar="JOB", help="The job's name, as it was ordered.")]


@app.callback(invoke_without_command=True)
def rebuild(
    ctx: typer.Context,
    unit: Annotated[
        str | None, typer.Option("--unit", help="The recipient, `line@territory`.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Whose copy is made anew.")
    ] = None,
    reason: Reason = "",
    operator: Operator = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Show how it goes on until it is closed.")
    ] = True,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fill a second copy from nothing while the one in use is applied as ever, prove it equal to
    what the bus gives, and swap them in one transaction; nobody reads a half copy. Asked for again
    while it is at work, it shows that one. Exit code 1: it was refused, and the copy in use stays.
    """
    if ctx.invoked_subcommand is not None:
        return
    if unit is None or dataset is None:
        raise DeptbusError("say whose copy of what", mend="Give --unit LINE@TERRITORY --dataset D")
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.rebuild_order import order_rebuild
    from deptbus.operations.replay_planner import open_desk

    why = checked_reason(reason)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator))
    question = f"Make the copy of {dataset} at {unit} anew?"
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(Exit.ANSWER_IS_NO)

    async def order() -> tuple[str, bool]:
        async with open_desk(connection) as desk:
            return await order_rebuild(desk, unit, dataset, by, why)

    job, is_new = asyncio.run(order())
    if output is Output.TABLE:
        print(f"ordered: job {job}" if is_new else f"at work already: job {job}")
    _show(connection, job, wait, output)


@app.command()
def status(
    job: Job,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes on until it is closed.")
    ] = False,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how far a rebuild is, and what came of it. Exit code 1: it was refused or cancelled."""
    _show(connect(data, bootstrap, client_file), job, wait, output)


@app.command()
def cancel(
    job: Job,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """End a rebuild: its second copy is dropped, and the one in use stays as it is. One that swaps
    already cannot be taken back."""
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.replay_desk import steer

    connection = connect(data, bootstrap, client_file)
    why, by = checked_reason(reason), operator_of(connection, who(operator))
    asyncio.run(steer(connection, job, "cancelled", why, by))
    print(f"job {job} is to end; see `deptbus rebuild status {job}`")


# -- parts ----------------------------------------------------------------------------------------


def _show(connection: Connection, job: str, wait: bool, output: Output) -> None:
    from deptbus.operations.rebuild_order import told_of
    from deptbus.operations.replay_apply import follow

    async def watch() -> tuple[Standing, list[RebuildTold]]:
        told = ""
        async for standing, is_led in follow(connection, job):
            now = _line(standing, is_led)
            if output is Output.TABLE and now != told:
                print(now, flush=True)
            told = now
            if not wait:
                break
        return standing, await told_of(connection, standing.order.unit, job)

    standing, told = asyncio.run(watch())
    if output is Output.JSON:
        print(json.dumps(_document(standing, told), ensure_ascii=False))
    else:
        for one in told:
            print(_of_system(one))
    if standing.state in ("refused", "cancelled") or (wait and standing.state != "done"):
        raise typer.Exit(Exit.ANSWER_IS_NO)


def _line(standing: Standing, is_led: bool) -> str:
    words = [f"{standing.order.job}: {standing.state}"]
    if standing.progress is not None and standing.progress.problem:
        words.append(f"({standing.progress.problem})")
    words.append(f"{standing.done} deliveries sent")
    if not is_led and not standing.is_closed:
        words.append("no operations process runs: it goes on when one does")
    return ", ".join(words)


def _of_system(told: RebuildTold) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in sorted(_counts(told).items()))
    more = f": {told.reason}" if told.reason else f" ({counts})" if counts else ""
    return f"{told.unit} {told.system}: {told.state}{more}"


def _counts(told: RebuildTold) -> dict[str, int]:
    return dict(zip(told.names, told.counts, strict=True))


def _document(standing: Standing, told: list[RebuildTold]) -> dict[str, Any]:
    from deptbus.cli.replay_view import document

    systems = [
        {
            "system": one.system,
            "state": one.state,
            "reason": one.reason or None,
            "counts": _counts(one),
        }
        for one in told
    ]
    return document(standing) | {"systems": systems}
