"""`deptbus proposal`: what one operator proposed, and what another says to it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from deptbus.connection import Connection
    from deptbus.operations.proposals import ProposalStanding

app = typer.Typer(
    help="See what one operator proposed, and confirm or decline it as another.",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(metavar="PROPOSAL", help="The proposal's name, as `ls` shows it.")
]


@app.command()
def ls(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what was proposed and is not over, the latest first. Exit code 1: some of it waits for a
    person, or for the operations process."""
    found = asyncio.run(_standings(connect(data, bootstrap, client_file)))
    shown = [one for one in found if every or one.is_open]
    if output is Output.JSON:
        print(json.dumps({"proposals": [_document(one) for one in shown]}, ensure_ascii=False))
    else:
        _print(shown)
    if any(one.is_open for one in found):
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def confirm(
    proposal: Name,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Let a proposal of another operator be carried out; the operations process does it."""
    _decide(connect(data, bootstrap, client_file), proposal, "confirmed", reason, operator)


@app.command()
def decline(
    proposal: Name,
    reason: Reason = "",
    operator: Operator = None,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """End a proposal, another's or your own; nothing of it is done."""
    _decide(connect(data, bootstrap, client_file), proposal, "declined", reason, operator)


def print_proposed(name: str, output: Output) -> None:
    """What whoever proposed has to know."""
    if output is Output.JSON:
        print(json.dumps({"proposal": name, "state": "waiting"}))
    else:
        print(
            f"proposed: {name}. grants.yml asks for two people: another operator has to run "
            f"`deptbus proposal confirm {name}` within a day"
        )


def _decide(
    connection: Connection,
    name: str,
    word: Literal["confirmed", "declined"],
    reason: str,
    operator: str | None,
) -> None:
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.proposal_desk import decide
    from deptbus.stream.policies import read_policies

    why, by = checked_reason(reason), operator_of(connection, who(operator))

    async def say() -> None:
        contract = (await read_policies(connection)).current().contract
        await decide(connection, contract, name, word, why, by)

    asyncio.run(say())
    print(f"{word}: {name}; see `deptbus proposal ls --all`")


async def _standings(connection: Connection) -> list[ProposalStanding]:
    import time

    from deptbus.operations.proposal_desk import read_proposals
    from deptbus.operations.proposals import standings
    from deptbus.stream.policies import read_policies

    contract = (await read_policies(connection)).current().contract
    return standings(await read_proposals(connection), contract, time.time_ns() // 1000)


def _document(one: ProposalStanding) -> dict[str, Any]:
    proposal, decided = one.proposal, one.decided
    return {
        "proposal": proposal.proposal,
        "act": proposal.act,
        "state": one.state,
        "unit": proposal.unit,
        "datasets": list(proposal.datasets),
        "operator": proposal.operator,
        "reason": proposal.reason,
        "proposed_at": instant(proposal.proposed_at_us),
        "expires_at": instant(proposal.expires_at_us),
        "decided_by": None if decided is None else decided.operator,
        "told": one.told,
        "content": json.loads(proposal.content),
    }


def _print(found: list[ProposalStanding]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    headings = ("proposal", "act", "unit", "datasets", "state", "by", "expires", "reason", "result")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for one in found:
        proposal, decided = one.proposal, one.decided
        state = f"{one.state} by {decided.operator}" if decided is not None else str(one.state)
        table.add_row(
            *map(
                escape,
                (
                    proposal.proposal,
                    proposal.act,
                    proposal.unit,
                    ", ".join(proposal.datasets),
                    state,
                    proposal.operator,
                    instant(proposal.expires_at_us),
                    proposal.reason,
                    one.told,
                ),
            )
        )
    Console(highlight=False).print(table)
