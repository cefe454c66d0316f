"""`deptbus contract`: check, show and activate what was agreed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path
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
    is_named,
    who,
)
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.contract.model import Contract, Policy
    from deptbus.operations.activation import Proposal

app = typer.Typer(help="Check, show and activate what was agreed.", no_args_is_help=True)

Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="[DIR]",
        help="Folder with topics.yml, departments.yml, grants.yml and schemas/; "
        "else the contract that comes with deptbus.",
        show_default=False,
    ),
]


@app.command()
def check(folder: Folder = None) -> None:
    """Check a contract's files. Exit code 1 when something is wrong: every problem is told at once,
    with its file and line and how to mend it."""
    from deptbus.cli.contract_view import print_advice, print_summary
    from deptbus.contract.advice import advise
    from deptbus.contract.load import read
    from deptbus.errors import FileProblems
    from deptbus.routing import CHINA

    draft, problems = read(_or_bundled(folder))
    if problems:
        raise FileProblems(problems)
    print_summary(draft.contract)
    print_advice(advise(draft, datetime.now(CHINA).date()))


@app.command()
def show(
    folder: Folder = None,
    unit: Annotated[
        str | None, typer.Option("--unit", help="One unit, `line@territory`; else all in short.")
    ] = None,
    output: OutputOption = Output.TABLE,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Show what units publish and receive, by which rule, and why they do not get the rest.

    Of the contract in force when a bus is named, else of the files in DIR.
    """
    from deptbus.cli.contract_view import print_rights, print_units, rights_document
    from deptbus.operations.rights import rights_of

    if folder is None and is_named(data, bootstrap, client_file):
        policy = asyncio.run(_in_force(connect(data, bootstrap, client_file)))
    else:
        policy = _as_policy(_or_bundled(folder))
    known = policy.contract.unit_by_name
    if unit is not None and unit not in known:
        raise DeptbusError(f"no unit {unit} in the contract", mend=_nearest(unit, list(known)))
    units = [unit] if unit is not None else list(known)
    rights = [rights_of(policy, name, datetime.now(UTC)) for name in units]
    if output is Output.JSON:
        found = [rights_document(policy, one) for one in rights]
        print(json.dumps(found[0] if unit is not None else found, ensure_ascii=False, indent=2))
    elif unit is not None:
        print_rights(policy, rights[0])
    else:
        print_units(policy, rights)


@app.command()
def activate(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of the contract.", show_default=False)
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Annotated[
        bool,
        typer.Option("--wait/--no-wait", help="Wait until every recipient is brought up to it."),
    ] = True,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Put a contract in force on a running bus: agents and adapters follow without a restart.

    Says first who newly receives or loses what. May be stopped anywhere: what is left to do goes
    on by itself where `deptbus operations run` runs, or when this is called again.
    """
    from deptbus.cli.contract_view import print_changes, wait_for_recipients
    from deptbus.contract.load import load
    from deptbus.operations.audit import checked_reason, operator_of

    contract = load(folder)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator)).name
    why = checked_reason(reason) if reason else ""
    proposal = asyncio.run(_propose(connection, contract, by))
    if proposal.is_in_force:
        assert proposal.old is not None
        print(f"this contract is in force already, as policy {proposal.old.number}")
        _apply_topics(connection, contract)
    else:
        print_changes(proposal)
        if not yes and not typer.confirm("Put it in force?"):
            raise typer.Exit(Exit.ANSWER_IS_NO)
        _apply_topics(connection, contract)
        asyncio.run(_put_in_force(connection, proposal, why))
        print(f"policy {proposal.new.number} is in force")
    if wait:
        asyncio.run(wait_for_recipients(connection))


# -- parts ----------------------------------------------------------------------------------------


def _or_bundled(folder: Path | None) -> Path:
    from deptbus.contract.bundled import bundled

    return folder if folder is not None else bundled()


def _as_policy(folder: Path) -> Policy:
    """What the contract in a folder would mean if it were activated now."""
    from deptbus.contract.load import load
    from deptbus.contract.model import Policy

    contract = load(folder)
    return Policy(number=0, activated_at=datetime.now(UTC), activated_by="", contract=contract)


async def _in_force(connection: Connection) -> Policy:
    from deptbus.stream.policies import read_policies

    return (await read_policies(connection)).current()


async def _propose(connection: Connection, contract: Contract, by: str) -> Proposal:
    """The bus of a first activation has no topics yet."""
    from deptbus.cluster import topics
    from deptbus.cluster.blocking import in_thread
    from deptbus.operations.activation import propose

    first = topics.wanted_before_any_contract()
    await in_thread(lambda: topics.apply(connection, topics.plan(connection, first)))
    return await propose(connection, contract, activated_by=by)


def _apply_topics(connection: Connection, contract: Contract) -> None:
    from deptbus.cluster import topics

    topics.apply(connection, topics.plan(connection, topics.wanted(contract)))


async def _put_in_force(connection: Connection, proposal: Proposal, reason: str) -> None:
    from deptbus.operations.activation import put_in_force

    await put_in_force(connection, proposal, reason)


def _nearest(unit: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(unit, known, n=3, cutoff=0.5)
    return f"Do you mean {' or '.join(near)}?" if near else "See `deptbus contract show`"
