"""`deptbus audit`: what operators did: who, when, why and what. There is no verb that removes."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deptbus.cli.options import (
    Bootstrap,
    ClientFile,
    Data,
    Output,
    OutputOption,
    connect,
    instant,
)

if TYPE_CHECKING:
    from deptbus.wire.control import Act

app = typer.Typer(help="Show what operators did, when and why.", no_args_is_help=True)

_SUBJECTS_SHOWN = 3


@app.callback()
def audit() -> None:
    """Show what operators did, when and why."""


@app.command()
def ls(
    last: Annotated[
        int, typer.Option("--last", min=0, help="So many of the last records; 0: all.")
    ] = 50,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List acts, the oldest first; nothing is ever taken out of them."""
    from deptbus.operations.audit import read_acts

    acts = asyncio.run(read_acts(connect(data, bootstrap, client_file)))
    shown = acts[-last:] if last else acts
    if output is Output.JSON:
        print(json.dumps({"acts": [_document(act) for act in shown]}, ensure_ascii=False))
    else:
        _print(shown)


def _document(act: Act) -> dict[str, Any]:
    return {
        "act": act.act,
        "at": instant(act.acted_at_us),
        "operator": act.operator,
        "bus_user": act.bus_user,
        "verb": act.verb,
        "reason": act.reason,
        "unit": act.unit,
        "dataset": act.dataset,
        "key": act.key.hex() if act.key is not None else None,
        "subjects": list(act.subjects),
    }


def _print(acts: list[Act]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for head in ("when", "who", "did", "what", "why"):
        table.add_column(head, overflow="fold")
    for act in acts:
        who = f"{act.operator} ({act.bus_user})" if act.bus_user else act.operator
        cells = (instant(act.acted_at_us), who, act.verb, _what(act), act.reason)
        table.add_row(*map(escape, cells))
    Console().print(table)


def _what(act: Act) -> str:
    words = [act.unit, act.dataset, act.key.hex() if act.key is not None else ""]
    words += act.subjects[:_SUBJECTS_SHOWN]
    more = len(act.subjects) - _SUBJECTS_SHOWN
    return " ".join(filter(None, [*words, f"and {more} more" if more > 0 else ""]))
