"""What people do from a page, and what they ask the bus for: by the command line's functions.

Each act is recorded in `bus.audit` under the person's name before it is done; that is done in
`operations`, where the command line does it too. Searches read whole partitions, so only some are
made at a time; whoever comes then waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from deptbus.connection import Connection
from deptbus.console.roles import Person
from deptbus.contract.model import Contract
from deptbus.errors import DeptbusError
from deptbus.operations import audit, hold, replay_plan
from deptbus.operations.alarms_board import acknowledge, chosen, read_alarms
from deptbus.operations.describe import describe
from deptbus.operations.office import utc_now
from deptbus.operations.parked_desk import Ask, retry_parked
from deptbus.operations.proofs import Subject
from deptbus.operations.proposal_desk import (
    RepairTerms,
    decide,
    propose_repair,
    propose_replay,
)
from deptbus.operations.quarantine import Case
from deptbus.operations.quarantine_desk import ask_sources, codecs_of, dismiss, plan_of
from deptbus.operations.replay_apply import check
from deptbus.operations.replay_choice import between, everything, instant_of
from deptbus.operations.replay_desk import steer
from deptbus.operations.replay_plan import Plan
from deptbus.operations.replay_planner import make_plan, open_desk
from deptbus.operations.search import deadline_in, read_places
from deptbus.operations.trace import Trace
from deptbus.operations.trace_desk import trace
from deptbus.stream.policies import read_policies

_SEARCH_SECONDS = 20.0
_SEARCHES = 2
_PLAN_SECONDS = 60.0  # a browser waits for it
_ANSWER_SECONDS = 8.0  # an adapter that runs answers within two; who does not is told of later


Decision = Literal["confirmed", "declined"]
Wanted = Literal["run", "paused", "cancelled"]


@dataclass(frozen=True, slots=True)
class WantedReplay:
    """Times as a page's field has them, by China's clock; neither: every key. `dataset` empty: all
    that the unit ever had a right to."""

    unit: str
    dataset: str = ""
    begins: str = ""
    ends: str = ""


@dataclass(frozen=True, slots=True)
class Asked:
    """Of how many records the sources were asked, and of how many notes nobody can be asked."""

    records: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Retried:
    """Of parked rows that were asked to be tried again. `silent`: of so many systems the adapter
    has not told in time what came of it."""

    rows: int
    written: int
    still_parked: int
    silent: int


class Desk(Protocol):
    """All raise DeptbusError in words for people. `unit` or `dataset` is empty."""

    async def hold(self, unit: str, dataset: str, person: Person, reason: str) -> None: ...

    async def resume(self, unit: str, dataset: str, person: Person, reason: str) -> None: ...

    async def resend(self, cases: Sequence[Case], person: Person, reason: str) -> Asked: ...

    async def dismiss(self, cases: Sequence[Case], person: Person, reason: str) -> None: ...

    async def retry(self, asks: Sequence[Ask], person: Person, reason: str) -> Retried: ...

    async def acknowledge(self, subjects: Sequence[str], person: Person, reason: str) -> None: ...

    async def plan(self, wanted: WantedReplay, person: Person, reason: str) -> Plan:
        """Nothing is sent by it."""
        ...

    async def propose_replay(self, plan: str, person: Person) -> str:
        """`plan`: its file's text. Returns the proposal's name."""
        ...

    async def propose_repair(
        self, subject: Subject, terms: RepairTerms, person: Person, reason: str
    ) -> str: ...

    async def decide(self, name: str, word: Decision, person: Person, reason: str) -> None: ...

    async def steer(self, job: str, wanted: Wanted, person: Person, reason: str) -> None: ...

    async def show(self, case: Case) -> dict[str, Any] | None:
        """What lies at the place, masked; None: retention or compaction has taken it."""
        ...

    async def find(self, dataset: str, key: bytes, unit: str) -> Trace: ...

    def key_units(self) -> dict[str, tuple[str, ...]]:
        """Units whose key secret this console holds -> the datasets that they publish."""
        ...

    async def key_of(
        self, unit: str, dataset: str, natural: tuple[str, ...], contract: Contract
    ) -> bytes:
        """The bus key of one natural key; neither is kept, logged or quoted in an error."""
        ...


class BusDesk:
    """The desk of a bus. `departments`: files of units whose key secrets may be used here."""

    def __init__(self, connection: Connection, departments: Sequence[Path] = ()) -> None:
        self._connection = connection
        self._files = {}
        for path in departments:
            from deptbus.contract.department import load_department

            department = load_department(path)
            self._files[department.unit] = department
        self._searches = asyncio.Semaphore(_SEARCHES)

    async def hold(self, unit: str, dataset: str, person: Person, reason: str) -> None:
        why, by = audit.checked_reason(reason), self._operator(person)
        await hold.hold(self._connection, unit, dataset, by, why)

    async def resume(self, unit: str, dataset: str, person: Person, reason: str) -> None:
        why, by = audit.checked_reason(reason), self._operator(person)
        await hold.resume(self._connection, unit, dataset, by, why)

    async def resend(self, cases: Sequence[Case], person: Person, reason: str) -> Asked:
        why, by = audit.checked_reason(reason), self._operator(person)
        policy = (await read_policies(self._connection)).current()
        async with self._searches:
            plan = await plan_of(
                self._connection, policy, cases, deadline=deadline_in(_SEARCH_SECONDS)
            )
        asked = await ask_sources(self._connection, plan, by, why) if plan.asks else 0
        return Asked(asked, len(plan.left_out))

    async def dismiss(self, cases: Sequence[Case], person: Person, reason: str) -> None:
        why, by = audit.checked_reason(reason), self._operator(person)
        await dismiss(self._connection, cases, by, why)

    async def retry(self, asks: Sequence[Ask], person: Person, reason: str) -> Retried:
        why, by = audit.checked_reason(reason), self._operator(person)
        outcomes = await retry_parked(
            self._connection, asks, by, why, deadline=deadline_in(_ANSWER_SECONDS)
        )
        told = [one.told for one in outcomes if one.told is not None]
        return Retried(
            sum(one.rows for one in told),
            sum(one.written for one in told),
            sum(one.still_parked for one in told),
            len(outcomes) - sum(one.is_done for one in told),
        )

    async def acknowledge(self, subjects: Sequence[str], person: Person, reason: str) -> None:
        why, by = audit.checked_reason(reason), self._operator(person)
        alarms = chosen(await read_alarms(self._connection), subjects)
        await acknowledge(self._connection, alarms, by, why)

    async def plan(self, wanted: WantedReplay, person: Person, reason: str) -> Plan:
        why, by = audit.checked_reason(reason), self._operator(person)
        choice = everything()
        if wanted.begins or wanted.ends:
            begins, ends = (_china(one) for one in (wanted.begins, wanted.ends))
            choice = between(begins, ends)
        try:
            async with (
                self._searches,
                asyncio.timeout(_PLAN_SECONDS),
                open_desk(self._connection) as desk,
            ):
                made, _ = await make_plan(desk, wanted.unit, wanted.dataset, choice, by, why)
        except TimeoutError:
            raise DeptbusError(
                "there is too much to be read for a page",
                mend="Plan it with `deptbus replay plan`, and apply that: it shows here",
            ) from None
        return made

    async def propose_replay(self, plan: str, person: Person) -> str:
        found = replay_plan.plan_of(plan, Path("the plan of this page"))
        async with open_desk(self._connection) as desk:
            await check(desk, found, utc_now())
            contract = desk.policies.current().contract
        return await propose_replay(self._connection, contract, found, self._operator(person))

    async def propose_repair(
        self, subject: Subject, terms: RepairTerms, person: Person, reason: str
    ) -> str:
        why, by = audit.checked_reason(reason), self._operator(person)
        return await propose_repair(
            self._connection,
            await self._contract(),
            subject.unit,
            [subject.dataset],
            terms,
            by,
            why,
        )

    async def decide(self, name: str, word: Decision, person: Person, reason: str) -> None:
        why, by = audit.checked_reason(reason), self._operator(person)
        await decide(self._connection, await self._contract(), name, word, why, by)

    async def steer(self, job: str, wanted: Wanted, person: Person, reason: str) -> None:
        why, by = audit.checked_reason(reason), self._operator(person)
        await steer(self._connection, job, wanted, why, by)

    async def show(self, case: Case) -> dict[str, Any] | None:
        history = await read_policies(self._connection)
        topic, partition, _ = case.place
        async with self._searches:
            # A batch that could not be unpacked stands at its last offset.
            found = await read_places(
                self._connection,
                topic,
                partition,
                [case.note.last_offset],
                deadline=deadline_in(_SEARCH_SECONDS),
            )
        if not found.is_whole:
            raise DeptbusError("the place could not be read in time", mend="Try again")
        if not found.records:
            return None
        return describe(codecs_of(history), history.current(), found.records[0])

    async def find(self, dataset: str, key: bytes, unit: str) -> Trace:
        history = await read_policies(self._connection)
        async with self._searches:
            deadline = deadline_in(_SEARCH_SECONDS)
            return await trace(
                self._connection, history, dataset, key, unit=unit, deadline=deadline
            )

    def key_units(self) -> dict[str, tuple[str, ...]]:
        return {
            unit: tuple(name for s in department.systems.values() for name in s.publishes)
            for unit, department in self._files.items()
        }

    async def key_of(
        self, unit: str, dataset: str, natural: tuple[str, ...], contract: Contract
    ) -> bytes:
        from deptbus.department.install import key_of_natural

        department = self._files.get(unit)
        if department is None:
            raise DeptbusError("this console has no key secret of that unit")
        # It reads the secret's file: not in the loop that serves pages.
        return await asyncio.to_thread(key_of_natural, department, dataset, contract, natural)

    def _operator(self, person: Person) -> audit.Operator:
        return audit.operator_of(self._connection, person.name, by_console=True)

    async def _contract(self) -> Contract:
        return (await read_policies(self._connection)).current().contract


def _china(text: str) -> datetime | None:
    """What a field for a time of day has, by China's clock. Raises DeptbusError."""
    return instant_of(f"{text}+08:00", "the time") if text else None
