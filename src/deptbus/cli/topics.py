"""`deptbus topics`: what topics and rights a contract needs on the bus, and making them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deptbus.cli.options import Bootstrap, ClientFile, Data, Output, OutputOption, connect
from deptbus.errors import Exit

if TYPE_CHECKING:
    from deptbus.cluster import rights, topics
    from deptbus.connection import Connection
    from deptbus.contract.model import Contract

app = typer.Typer(help="Plan and apply the topics that a contract needs.", no_args_is_help=True)

ContractFolder = Annotated[
    Path | None,
    typer.Option("--contract", help="Folder of the contract; else the one in force on the bus."),
]
WithRights = Annotated[
    bool, typer.Option("--rights", help="Rights (ACLs) as well; the brokers must check them.")
]


@app.command()
def plan(
    contract: ContractFolder = None,
    with_rights: WithRights = False,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what `apply` would do. Exit code 0: nothing; 1: something."""
    connection = connect(data, bootstrap, client_file)
    for_topics, for_rights = _plans(connection, contract, with_rights)
    _print(for_topics, for_rights, output)
    if not for_topics.is_empty or not (for_rights is None or for_rights.is_empty):
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def apply(
    contract: ContractFolder = None,
    with_rights: WithRights = False,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make the topics as the contract wants them. No topic is deleted; twice does nothing more."""
    from deptbus.cluster import rights, topics

    connection = connect(data, bootstrap, client_file)
    for_topics, for_rights = _plans(connection, contract, with_rights)
    topics.apply(connection, for_topics)
    if for_rights is not None:
        rights.apply(connection, for_rights)
    _print(for_topics, for_rights, output)


def _plans(
    connection: Connection, folder: Path | None, with_rights: bool
) -> tuple[topics.Plan, rights.RightsPlan | None]:
    from deptbus.cluster import rights, topics

    contract = _contract(connection, folder)
    for_topics = topics.plan(connection, topics.wanted(contract))
    for_rights = rights.plan(connection, rights.rights_for(contract)) if with_rights else None
    return for_topics, for_rights


def _contract(connection: Connection, folder: Path | None) -> Contract:
    if folder is not None:
        from deptbus.contract.load import load

        return load(folder)
    from deptbus.stream.policies import read_policies

    return asyncio.run(read_policies(connection)).current().contract


def _print(for_topics: topics.Plan, for_rights: rights.RightsPlan | None, output: Output) -> None:
    lines = [*for_topics.lines(), *(for_rights.lines() if for_rights is not None else [])]
    if output is Output.TABLE:
        print("\n".join(lines or ["nothing to do"]))
        return
    content = {
        "create": [t.name for t in for_topics.create],
        "change": [[c.topic, c.setting, c.old, c.new] for c in for_topics.change],
        "refuse": [[r.topic, r.why, r.mend] for r in for_topics.refuse],
        "notes": list(for_topics.notes),
        "give": [] if for_rights is None else [str(r) for r in for_rights.give],
        "take": [] if for_rights is None else [str(r) for r in for_rights.take],
    }
    print(json.dumps(content, ensure_ascii=False))
