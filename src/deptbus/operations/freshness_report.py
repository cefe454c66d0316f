"""Which source units keep the promises of their datasets: one look, and the document of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.contract.opening import opening_of
from deptbus.errors import Exit
from deptbus.operations.advice import RUNBOOK, page
from deptbus.operations.freshness import Fresh, Freshness, freshness
from deptbus.operations.lag_report import when
from deptbus.operations.offsets import Offsets
from deptbus.operations.refreshes import Source, last_refreshes
from deptbus.operations.signs import UNREADABLE, latest
from deptbus.operations.verdicts import Reader
from deptbus.operations.watch_signs import SignsWatch
from deptbus.stream.brokers import consumer_of
from deptbus.stream.policies import read_policies

_ADVICE = {
    Fresh.LATE: "Ask {owner} whether nothing has changed there; whether capture works says "
    "`deptbus department status --config FILE`",
    Fresh.SILENT: "Start the adapter at {unit}: `deptbus department run --config FILE`",
}


WELL = (Fresh.FRESH, Fresh.CLOSED)


@dataclass(frozen=True, slots=True)
class FreshnessRow:
    unit: str
    dataset: str
    owner: str
    promise_hours: float
    said: Freshness


async def look_at_freshness(
    connection: Connection, now: Callable[[], float] = time.time
) -> list[FreshnessRow]:
    """A row for each unit and dataset that it may publish. Raises BusUnreachable, BusRefused,
    ContractUnreadable."""
    contract = (await read_policies(connection)).current().contract
    async with consumer_of(connection) as consumer:
        cluster = await Offsets(consumer._client).cluster()
    at = now()
    signs = SignsWatch(connection)
    try:
        await signs.read([(u.unit, s) for u in contract.units for s in u.systems], cluster, at)
        readers = {u.unit: _reader(signs, u.unit, u.systems, at) for u in contract.units}
    finally:
        await signs.stop()
    refreshes = await last_refreshes(connection, contract, cluster, at)
    return freshness_rows(contract, refreshes, readers, at)


def _reader(signs: SignsWatch, unit: str, systems: tuple[str, ...], now: float) -> Reader:
    """Of the unit: one system that publishes is enough, because which one has the dataset nobody
    agreed."""
    lives = [signs.source((unit, system), now) for system in systems]
    return UNREADABLE.reader if UNREADABLE in lives else latest(lives).reader


def freshness_rows(
    contract: Contract,
    refreshes: dict[Source, Any],
    readers: dict[str, Reader],
    now: float,
) -> list[FreshnessRow]:
    """Pure; in the order of the contract."""
    openings = {unit.unit: opening_of(unit, contract) for unit in contract.units}
    return [
        FreshnessRow(
            unit.unit,
            dataset,
            unit.owner,
            contract.datasets[dataset].freshness_hours,
            freshness(
                refreshes[unit.unit, dataset],
                contract.datasets[dataset].freshness_hours * 3600,
                readers[unit.unit],
                now,
                openings[unit.unit],
            ),
        )
        for unit in contract.units
        for dataset in contract.published_by(unit.unit)
    ]


def freshness_document(rows: list[FreshnessRow], now: float, *, only_bad: bool) -> dict[str, Any]:
    """What is not known is null."""
    return {
        "at": when(now),
        "datasets": [
            {
                "unit": row.unit,
                "dataset": row.dataset,
                "state": row.said.state,
                "last_refresh": None if row.said.last is None else when(row.said.last),
                "promise_hours": row.promise_hours,
                "due": None if row.said.due is None else when(row.said.due),
                "owner": row.owner,
                "advice": freshness_advice(row),
            }
            for row in rows
            if not only_bad or row.said.state not in WELL
        ],
    }


def freshness_exit_code(rows: list[FreshnessRow]) -> Exit:
    states = {row.said.state for row in rows}
    if states & {Fresh.LATE, Fresh.SILENT}:
        return Exit.ANSWER_IS_NO
    return Exit.COULD_NOT if None in states else Exit.DONE


def freshness_advice(row: FreshnessRow) -> str:
    state = row.said.state
    if state is None:
        text = "Look whether all brokers are well, and ask again"
    else:
        text = _ADVICE.get(state, "Nothing is to be done").format(owner=row.owner, unit=row.unit)
    where = page(state.value) if state in _ADVICE else f"{RUNBOOK}#freshness"
    return f"{text}. See {where}"
