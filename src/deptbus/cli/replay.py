"""`deptbus replay`: plan what a recipient is given again, apply the plan, watch and steer it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    from deptbus.operations.replay_choice import Choice
    from deptbus.operations.replay_dry_run import DryRun
    from deptbus.operations.replay_plan import Plan

app = typer.Typer(
    help="Give a recipient again what it lost: plan, apply, watch, steer.", no_args_is_help=True
)

Job = Annotated[str, typer.Argument(metavar="JOB", help="The job's name, as `ls` shows it.")]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Show how it goes on until nothing more happens.")
]


@app.command()
def plan(
    unit: Annotated[str, typer.Option("--unit", help="The recipient, `line@territory`.")],
    dataset: Annotated[
        str, typer.Option("--dataset", help="One dataset; else all it ever had a right to.")
    ] = "",
    begins: Annotated[
        str | None, typer.Option("--from", help="Changes that came at this time or later; its zone")
    ] = None,
    ends: Annotated[
        str | None, typer.Option("--to", help="Changes that came before this time.")
    ] = None,
    offsets: Annotated[
        Path | None,
        typer.Option("--offsets", help="File of DATASET:PARTITION:FIRST[:BEHIND-THE-LAST] lines."),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="File of bus keys, one on each line.")
    ] = None,
    since_certificate: Annotated[
        Path | None,
        typer.Option("--since-certificate", help="What came since a certificate proved the copy."),
    ] = None,
    public_key: Annotated[
        Path | None,
        typer.Option("--public-key", help="The key to verify it with; else that of --data."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every key of the dataset.")] = False,
    reason: Reason = "",
    operator: Operator = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="The new plan's file; else JOB.json here.")
    ] = None,
    is_dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say too how many rows of the recipient would change."),
    ] = False,
    deadline: Annotated[
        float, typer.Option("--deadline", min=1, help="Seconds that a dry run may take.")
    ] = 1800.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Resolve a choice to offsets and counts, by the rights of today; nothing is sent. Writes a
    plan, which `apply` takes within 24 hours."""
    from deptbus.cli.replay_view import plan_document, print_plan
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.replay_dry_run import dry_run
    from deptbus.operations.replay_plan import write_plan
    from deptbus.operations.replay_planner import make_plan, open_desk

    if since_certificate is not None:
        _only((begins, ends, offsets, keys, every or None), 0)
        choice = _since(since_certificate, public_key, data, unit)
    else:
        choice = _choice(begins, ends, offsets, keys, every)
    why = checked_reason(reason)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator))
    if file is not None and file.exists():
        raise DeptbusError(f"{file} is there already", mend="Name another file with --file")

    async def make() -> tuple[Plan, DryRun | None]:
        async with open_desk(connection) as desk:
            made, chosen = await make_plan(
                desk, unit, dataset, choice, by, why, keeps_keys=is_dry_run
            )
        if not is_dry_run:
            return made, None
        return made, await dry_run(connection, unit, chosen, deadline_seconds=deadline)

    made, tried = asyncio.run(make())
    path = file or Path(f"{made.job}.json")
    write_plan(made, path)
    if output is Output.JSON:
        print(json.dumps(plan_document(made, tried) | {"file": str(path)}, ensure_ascii=False))
    else:
        print_plan(made, tried)
        print(f"the plan is {path}: apply it with `deptbus replay apply {path}`")


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(metavar="PLAN", help="The file that `plan` wrote.")],
    operator: Operator = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = True,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check a plan again and order its job, which the operations process carries out; a plan that
    was applied before is not ordered again. Where grants.yml asks for two people it is proposed,
    and ordered once another has confirmed it. Exit code 1: proposed, refused, not ended well."""
    from deptbus.cli.proposal import print_proposed
    from deptbus.operations.audit import operator_of
    from deptbus.operations.office import utc_now
    from deptbus.operations.proposal_desk import propose_replay
    from deptbus.operations.proposals import asks_for_two
    from deptbus.operations.replay_apply import apply_plan, check
    from deptbus.operations.replay_desk import read_orders
    from deptbus.operations.replay_plan import read_plan
    from deptbus.operations.replay_planner import open_desk

    found = read_plan(file)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator))
    question = f"Send {found.sent} deliveries to {found.unit}?"
    if not yes and not typer.confirm(question, err=True):
        raise typer.Exit(Exit.ANSWER_IS_NO)

    async def order() -> tuple[str, bool] | None:
        async with open_desk(connection) as desk:
            contract = desk.policies.current().contract
            if asks_for_two(contract, "replay", found.datasets):
                await check(desk, found, utc_now())
                await propose_replay(connection, contract, found, by)
                standing = (await read_orders(connection)).orders.get(found.job)
                return None if standing is None else (found.job, False)
            return await apply_plan(desk, found, by)

    ordered = asyncio.run(order())
    if ordered is None:
        print_proposed(found.job, output)
        raise typer.Exit(Exit.ANSWER_IS_NO)
    job, is_new = ordered
    if output is Output.TABLE:
        print(f"ordered: job {job}" if is_new else f"this plan was applied already: job {job}")
    _show(connection, job, wait, output)


@app.command()
def status(
    job: Job,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show how it goes on until nothing more happens.")
    ] = False,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how far a job is. Exit code 1: it was refused or cancelled."""
    _show(connect(data, bootstrap, client_file), job, wait, output)


@app.command()
def ls(
    unit: Annotated[str, typer.Option("--unit", help="Of this recipient alone.")] = "",
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what was ordered, the oldest first. Exit code 1: some of it is not closed."""
    from deptbus.cli.replay_view import document, print_standings
    from deptbus.operations.replay_apply import standing_of
    from deptbus.operations.replay_desk import read_orders

    orders = asyncio.run(read_orders(connect(data, bootstrap, client_file)))
    found = [standing_of(orders, job) for job, o in orders.orders.items() if unit in ("", o.unit)]
    found.sort(key=lambda standing: standing.order.ordered_at_us)
    if output is Output.JSON:
        print(json.dumps({"jobs": [document(s) for s in found]}, ensure_ascii=False))
    else:
        print_standings(found)
    if not all(standing.is_closed for standing in found):
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def pause(
    job: Job,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Stop a job where it is; it keeps its place, also over a start of the operations process."""
    _steer(connect(data, bootstrap, client_file), job, "paused", reason, operator)


@app.command()
def resume(
    job: Job,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Let a paused job go on from where it was."""
    _steer(connect(data, bootstrap, client_file), job, "run", reason, operator)


@app.command()
def cancel(
    job: Job,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """End a job where it is, for good; what was sent stays sent."""
    _steer(connect(data, bootstrap, client_file), job, "cancelled", reason, operator)


# -- parts ----------------------------------------------------------------------------------------


def _steer(
    connection: Connection,
    job: str,
    wanted: Literal["run", "paused", "cancelled"],
    reason: str,
    operator: str | None,
) -> None:
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.replay_desk import steer

    why, by = checked_reason(reason), operator_of(connection, who(operator))
    asyncio.run(steer(connection, job, wanted, why, by))
    words = {"run": "goes on", "paused": "is to pause", "cancelled": "is to end"}
    print(f"job {job} {words[wanted]}; see `deptbus replay status {job}`")


def _choice(
    begins: str | None, ends: str | None, offsets: Path | None, keys: Path | None, every: bool
) -> Choice:
    from deptbus.operations import replay_choice

    _only((begins or ends, offsets, keys, every or None), 1)
    if offsets is not None:
        return replay_choice.of_offsets(_lines(offsets), str(offsets))
    if keys is not None:
        return replay_choice.of_keys(_lines(keys), str(keys))
    if every:
        return replay_choice.everything()
    return replay_choice.between(
        None if begins is None else replay_choice.instant_of(begins, "--from"),
        None if ends is None else replay_choice.instant_of(ends, "--to"),
    )


def _only(ways: tuple[object, ...], count: int) -> None:
    if sum(way is not None for way in ways) != count:
        raise typer.BadParameter(
            "say one: --from and --to, --offsets, --keys, --since-certificate, or --all"
        )


def _since(file: Path, public_key: Path | None, data: Path | None, unit: str) -> Choice:
    from deptbus.cli.certificate import public_key_of, read_file
    from deptbus.operations.replay_choice import since
    from deptbus.proof.certificate import verify

    return since(verify(read_file(file), public_key_of(public_key, data, None)), unit)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DeptbusError(f"{path} cannot be read as text") from None


def _show(connection: Connection, job: str, wait: bool, output: Output) -> None:
    from deptbus.cli.replay_view import document, line
    from deptbus.operations.replay_apply import follow

    async def watch() -> Standing:
        told = ""
        async for standing, is_led in follow(connection, job):
            now = line(standing, is_led)
            if output is Output.TABLE and now != told:
                print(now, flush=True)
            told = now
            if not wait:
                break
        return standing

    standing = asyncio.run(watch())
    if output is Output.JSON:
        print(json.dumps(document(standing), ensure_ascii=False))
    if standing.state in ("refused", "cancelled") or (wait and standing.state != "done"):
        raise typer.Exit(Exit.ANSWER_IS_NO)
