"""`deptbus quarantine`: what was not accepted, why, whose it is; and doing something about it."""

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
    bus_key,
    connect,
    who,
)
from deptbus.errors import DeptbusError, Exit

if TYPE_CHECKING:
    from deptbus.connection import Connection
    from deptbus.operations.parked import ParkedRecord, ParkedRows
    from deptbus.operations.parked_desk import Outcome
    from deptbus.operations.quarantine import Case, Place, Selection
    from deptbus.operations.quarantine_desk import Quarantine
    from deptbus.stream.policies import PolicyHistory

app = typer.Typer(
    help="List and resolve what the bus could not accept.",
    no_args_is_help=True,
)

Places = Annotated[
    list[str] | None,
    typer.Argument(metavar="PLACE", help="topic/partition/offset, as `ls` shows it."),
]
Key = Annotated[str | None, typer.Option("--key", help="A bus key: 32 hexadecimal digits.")]
RefusedFor = Annotated[str, typer.Option("--refused-for", help="The reason of the note.")]
Unit = Annotated[str, typer.Option("--unit", help="Whose record it is, `line@territory`.")]
Dataset = Annotated[str, typer.Option("--dataset", help="The dataset of the record.")]
Every = Annotated[bool, typer.Option("--all", help="Everything that is not resolved yet.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Seconds = Annotated[
    float, typer.Option("--seconds", min=1, help="How long canonical topics are looked at.")
]


@app.command()
def ls(
    key: Key = None,
    refused_for: RefusedFor = "",
    unit: Unit = "",
    dataset: Dataset = "",
    every: Annotated[
        bool, typer.Option("--all", help="Superseded and dismissed ones as well.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Lines of the table.")] = 100,
    seconds: Seconds = 20.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what was not accepted: reason, owner, since when, overtaken or not, who resolved it; and
    the rows that recipients parked. Exit code 1: something is not resolved."""
    from deptbus.cli.quarantine_view import (
        document,
        parked_document,
        print_cases,
        print_parked,
        record_document,
    )
    from deptbus.operations.quarantine import UNRESOLVED, Selection, State

    states = tuple(State) if every else UNRESOLVED
    chosen = Selection(frozenset(), _key(key), refused_for, unit, dataset, states)
    connection = connect(data, bootstrap, client_file)
    quarantine, groups, every_row = asyncio.run(_read_all(connection, seconds))
    cases = [case for case in quarantine.cases if chosen.has(case)]
    parked = [row for row in groups if key is None and row.is_of(unit, dataset, refused_for)]
    rows = [row for row in every_row if row.is_of(unit, dataset, refused_for, chosen.key)]
    if output is Output.JSON:
        found = {
            "notes": [document(case) for case in cases],
            "parked": [parked_document(row) for row in parked],
            "parked_rows": [record_document(row) for row in rows],
            "is_whole": quarantine.is_whole,
        }
        print(json.dumps(found, ensure_ascii=False))
    else:
        print_cases(cases, limit, is_whole=quarantine.is_whole)
        print_parked(parked, rows, limit)
    if parked or rows or any(case.state in UNRESOLVED for case in cases):
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def show(
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="topic/partition/offset, as `ls` shows it.")
    ],
    seconds: Seconds = 20.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one note and what lies at its place: fields that are shared unconditionally in clear,
    all others masked; bytes that cannot be read are never shown."""
    from deptbus.cli.quarantine_view import document, print_case

    connection = connect(data, bootstrap, client_file)
    wanted = _place(place)

    async def find() -> tuple[Case, dict[str, Any] | None]:
        history, quarantine = await _read(connection, seconds)
        case = next((c for c in quarantine.cases if c.place == wanted), None)
        if case is None:
            raise DeptbusError(f"no note of {place}", mend="See `deptbus quarantine ls --all`")
        return case, await _record(connection, history, case, seconds)

    case, record = asyncio.run(find())
    if output is Output.JSON:
        print(json.dumps(document(case) | {"record": record}, ensure_ascii=False))
    else:
        print_case(case, record)


@app.command()
def resend(
    places: Places = None,
    key: Key = None,
    refused_for: RefusedFor = "",
    unit: Unit = "",
    dataset: Dataset = "",
    every: Every = False,
    reason: Reason = "",
    operator: Operator = None,
    yes: Yes = False,
    seconds: Seconds = 20.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Ask the sources to publish the present state of what was refused, once contract or program
    are mended. Exit code 1: of some nobody can be asked."""
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.quarantine import place_text
    from deptbus.operations.quarantine_desk import ask_sources, plan_of
    from deptbus.operations.search import deadline_in

    chosen = _selection(places, key, refused_for, unit, dataset, every)
    why = checked_reason(reason)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator))
    history, quarantine = asyncio.run(_read(connection, seconds))
    cases = _chosen(chosen, quarantine)

    async def plan() -> Any:
        deadline = deadline_in(seconds)
        return await plan_of(connection, history.current(), cases, deadline=deadline)

    found = asyncio.run(plan())
    for case, problem in found.left_out:
        print(f"{place_text(case.place)}: not asked: {problem}")
    _confirm(f"Ask for {len(found.asks)} records?", len(found.asks), yes)
    asked = asyncio.run(ask_sources(connection, found, by, why)) if found.asks else 0
    print(f"asked for {asked} records; their sources publish them as soon as they run")
    if found.left_out:
        raise typer.Exit(Exit.ANSWER_IS_NO)


@app.command()
def dismiss(
    places: Places = None,
    key: Key = None,
    refused_for: RefusedFor = "",
    unit: Unit = "",
    dataset: Dataset = "",
    every: Every = False,
    reason: Reason = "",
    operator: Operator = None,
    yes: Yes = False,
    seconds: Seconds = 20.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Say that nothing is to be done about notes, and why. The notes stay."""
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.quarantine_desk import dismiss as resolve

    chosen = _selection(places, key, refused_for, unit, dataset, every)
    why = checked_reason(reason)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator))
    cases = _chosen(chosen, asyncio.run(_read(connection, seconds))[1])
    _confirm(f"Dismiss {len(cases)} notes?", len(cases), yes)
    asyncio.run(resolve(connection, cases, by, why))
    print(f"dismissed {len(cases)} notes")


@app.command()
def retry(
    key: Key = None,
    refused_for: RefusedFor = "",
    unit: Annotated[str, typer.Option("--unit", help="Whose parked rows, `line@territory`.")] = "",
    dataset: Dataset = "",
    every: Annotated[bool, typer.Option("--all", help="Every parked row of every unit.")] = False,
    reason: Reason = "",
    operator: Operator = None,
    yes: Yes = False,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="How long to wait for what comes of it.")
    ] = 20.0,
    data: Data = None,
    bootstrap: Bootstrap = None,
    client_file: ClientFile = None,
) -> None:
    """Have recipients try their parked rows again now, whatever their back-off. Exit code 1: some
    stay parked; 2: not every adapter has said in time what came of it."""
    from deptbus.cli.quarantine_view import outcome_line
    from deptbus.operations.audit import checked_reason, operator_of
    from deptbus.operations.parked_desk import asks_of, retry_parked
    from deptbus.operations.search import deadline_in

    if not (key or refused_for or unit or dataset or every):
        raise typer.BadParameter("say which: --key, --refused-for, --unit, --dataset or --all")
    named = _key(key)
    why = checked_reason(reason)
    connection = connect(data, bootstrap, client_file)
    by = operator_of(connection, who(operator))
    every_group = asyncio.run(_read_groups(connection))
    groups = [group for group in every_group if group.is_of(unit, dataset, refused_for)]
    if not groups:
        print("no recipient tells of such rows")
        return
    rows = sum(group.rows for group in groups)
    asks = asks_of(((g.unit, g.system) for g in groups), dataset, named, refused_for)
    what = f"the rows of key {key}" if key else f"{rows} parked rows"
    _confirm(f"Try {what} again, of {', '.join(ask.unit for ask in asks)}?", rows, yes)

    async def ask() -> list[Outcome]:
        return await retry_parked(connection, asks, by, why, deadline=deadline_in(seconds))

    outcomes = asyncio.run(ask())
    for outcome in outcomes:
        print(outcome_line(outcome))
    if not all(one.told is not None and one.told.is_done for one in outcomes):
        raise typer.Exit(Exit.COULD_NOT)
    if any(one.told is not None and one.told.still_parked for one in outcomes):
        raise typer.Exit(Exit.ANSWER_IS_NO)


# -- parts ----------------------------------------------------------------------------------------


async def _read(connection: Connection, seconds: float) -> tuple[PolicyHistory, Quarantine]:
    from deptbus.operations.quarantine_desk import read_quarantine
    from deptbus.operations.search import deadline_in
    from deptbus.stream.policies import read_policies

    history = await read_policies(connection)
    deadline = deadline_in(seconds)
    return history, await read_quarantine(connection, history, deadline=deadline)


async def _read_all(
    connection: Connection, seconds: float
) -> tuple[Quarantine, list[ParkedRows], list[ParkedRecord]]:
    from deptbus.operations.parked_desk import read_parked, read_records

    history, quarantine = await _read(connection, seconds)
    contract = history.current().contract
    groups = await read_parked(connection, contract)
    return quarantine, groups, await read_records(connection, contract, groups)


async def _read_groups(connection: Connection) -> list[ParkedRows]:
    from deptbus.operations.parked_desk import read_parked
    from deptbus.stream.policies import read_policies

    return await read_parked(connection, (await read_policies(connection)).current().contract)


async def _record(
    connection: Connection, history: PolicyHistory, case: Case, seconds: float
) -> dict[str, Any] | None:
    """What lies at the place; None when it is gone by retention or compaction."""
    from deptbus.operations.describe import describe
    from deptbus.operations.quarantine_desk import codecs_of
    from deptbus.operations.search import deadline_in, read_places

    topic, partition, _ = case.place
    deadline = deadline_in(seconds)
    # A batch that could not be unpacked stands at its last offset.
    found = await read_places(
        connection, topic, partition, [case.note.last_offset], deadline=deadline
    )
    if not found.is_whole:
        raise DeptbusError("the place could not be read in time", mend="Give more --seconds")
    if not found.records:
        return None
    return describe(codecs_of(history), history.current(), found.records[0])


def _selection(
    places: list[str] | None, key: str | None, reason: str, unit: str, dataset: str, every: bool
) -> Selection:
    from deptbus.operations.quarantine import Selection

    if not (places or key or reason or unit or dataset or every):
        raise typer.BadParameter(
            "say which: PLACE, --key, --refused-for, --unit, --dataset or --all"
        )
    named = frozenset(_place(text) for text in places or ())
    return Selection(named, _key(key), reason, unit, dataset)


def _chosen(chosen: Selection, quarantine: Quarantine) -> list[Case]:
    from deptbus.operations.quarantine import place_text

    known = {case.place for case in quarantine.cases}
    missing = sorted(chosen.places - known)
    if missing:
        raise DeptbusError(
            f"no note of {place_text(missing[0])}", mend="See `deptbus quarantine ls --all`"
        )
    cases = [case for case in quarantine.cases if chosen.has(case)]
    if not cases:
        print("there is no such note that is not resolved")
        raise typer.Exit(Exit.DONE)
    return cases


def _confirm(question: str, count: int, yes: bool) -> None:
    if count and not yes and not typer.confirm(question):
        raise typer.Exit(Exit.ANSWER_IS_NO)


def _key(text: str | None) -> bytes | None:
    return None if text is None else bus_key(text)


def _place(text: str) -> Place:
    from deptbus.operations.quarantine import place_of

    found = place_of(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no place: topic/partition/offset")
    return found
