"""The long-running process of the data office: due jobs, boundaries of grants, the keeper, and
answers to sources that resync.

Any number of such processes may run; one leads (see `leader`), and the others wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import ContractUnreadable, DeptbusError
from deptbus.operations.board import AgentsBoard, JobsBoard
from deptbus.operations.boundary import keep_boundaries
from deptbus.operations.breather import Breather, LiveLag
from deptbus.operations.desk import Desk
from deptbus.operations.groups import Groups
from deptbus.operations.inbox import Inbox
from deptbus.operations.inboxes import Inboxes
from deptbus.operations.inventory import Shelves
from deptbus.operations.jobs import SchemaWriter, Tools
from deptbus.operations.keeper import INTERVAL_HOURS, Keeper, keep_always
from deptbus.operations.leader import Leadership
from deptbus.operations.library import Library
from deptbus.operations.logs import CanonicalLogs
from deptbus.operations.rebuild import RebuildJob
from deptbus.operations.replay_job import OrderedJob
from deptbus.operations.replay_orders import DueOrder
from deptbus.operations.requests import RequestsDesk
from deptbus.stream.log import Sender
from deptbus.stream.policies import LEASE_SECONDS, PolicyFollower

log = structlog.get_logger(__name__)

JOBS_AT_ONCE = 8
_AGAIN_SECONDS = 2.0


# Something that the leading process does until it is cancelled.
Duty = Callable[["Office"], Coroutine[Any, Any, None]]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Settings:
    now: Callable[[], datetime] = utc_now  # aware; by it grants start and end
    lease_seconds: float = LEASE_SECONDS  # after which a silent agent is not live
    jobs_at_once: int = JOBS_AT_ONCE
    keeper_interval_hours: float | None = INTERVAL_HOURS  # None: no keeper here
    further: tuple[Duty, ...] = ()  # duties of what is built upon an office


class Office:
    """Everything that duties need, opened on one bus. Made by `open_office`."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        policies: PolicyFollower,
        jobs: JobsBoard,
        tools: Tools,
        keeper: Keeper,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self.policies = policies
        self.tools = tools
        self.keeper = keeper
        self.jobs = jobs
        self.agents = tools.agents
        self.shelves = Shelves(connection, tools.sender, tools.library, asyncio.Lock())
        self.inboxes = Inboxes(connection, tools.sender, jobs, policies)
        self.desk = Desk(tools, policies, jobs, self.inboxes, self._ordered)

    async def run_duties(self) -> None:
        """All duties, until cancelled."""
        async with asyncio.TaskGroup() as duties:
            duties.create_task(self.desk.run(), name="jobs")
            duties.create_task(self.inboxes.keep(), name="inboxes")
            duties.create_task(
                keep_boundaries(self._connection, self.policies, self._settings.now),
                name="boundaries",
            )
            requests = RequestsDesk(self._connection, self.shelves, self._units)
            duties.create_task(requests.run(), name="requests")
            hours = self._settings.keeper_interval_hours
            if hours is not None:
                keeping = keep_always(self.keeper, self._datasets, interval_hours=hours)
                duties.create_task(keeping, name="keeper")
            for further in self._settings.further:
                duties.create_task(further(self))

    async def run_as_leader(self) -> None:
        """`run_duties` whenever this process leads, until cancelled."""
        async with Leadership(self._connection) as leadership:
            while True:
                await leadership.gained.wait()
                await _until(leadership.lost, self.run_duties())

    def _ordered(self, due: DueOrder) -> OrderedJob:
        if due.job.startswith(names.REBUILD_JOBS):
            return RebuildJob(due, self, self._connection)
        return OrderedJob(due, self.tools, self.jobs.orders, self._connection, self.policies)

    def _units(self) -> list[str]:
        return sorted(self.policies.current().contract.unit_by_name)

    def _datasets(self) -> list[str]:
        """Of every policy: a dataset that left the contract is kept until its topic goes."""
        history = self.policies.history().values()
        return sorted({d for policy in history for d in policy.contract.datasets})


@asynccontextmanager
async def open_office(
    connection: Connection, settings: Settings = Settings()
) -> AsyncIterator[Office]:
    """Raises BusUnreachable, BusRefused, and ContractUnreadable when none was ever activated."""
    async with AsyncExitStack() as stack:

        async def started(part: Any) -> Any:
            await part.start()
            stack.push_async_callback(part.stop)
            return part

        policies = await started(PolicyFollower(connection))
        history = policies.history()
        if not history:
            raise ContractUnreadable(
                "no contract is in force on this bus",
                mend="Activate one with `deptbus contract activate DIR`",
            )
        library = Library(policies)
        sender = await started(Sender(connection))
        groups = await started(Groups(connection))
        agents = await started(AgentsBoard(connection, lease_seconds=settings.lease_seconds))
        jobs = await started(JobsBoard(connection))
        logs = await started(CanonicalLogs(connection, library.decode))

        def knows(unit: str) -> bool:
            return unit in policies.current().contract.unit_by_name

        def groups_of(unit: str) -> list[str]:
            known = policies.current().contract.unit_by_name.get(unit)
            systems = known.systems if known is not None else ()
            return [names.adapter_group(unit, system) for system in systems]

        def inbox_of(unit: str) -> Inbox:
            return Inbox(names.in_topic(unit), sender, groups, groups_of(unit))

        def calm_inbox_of(unit: str) -> Inbox:
            topic, readers = names.in_topic(unit), groups_of(unit)
            breather = Breather(LiveLag(topic, readers, groups, logs))
            return Inbox(topic, sender, groups, readers, breather=breather)

        tools = Tools(
            sender=sender,
            library=library,
            schemas=SchemaWriter(sender, library),
            agents=agents,
            logs=logs,
            sending=asyncio.Semaphore(settings.jobs_at_once),
            inbox_of=inbox_of,
            calm_inbox_of=calm_inbox_of,
            knows=knows,
            now=settings.now,
        )
        keeper = Keeper(logs, sender, groups.committed)
        yield Office(connection, settings, policies, jobs, tools, keeper)


async def run_office(
    connection: Connection,
    settings: Settings = Settings(),
    begun: Callable[[], None] = lambda: None,
) -> None:
    """`deptbus operations run`: waits for a bus and for its first contract, then leads or waits.

    Ends only by cancellation; what goes wrong with the bus is told and tried again. `begun` is
    called each time that it stands ready to lead.
    """
    told = ""
    while True:
        try:
            async with open_office(connection, settings) as office:
                told = ""
                begun()
                await office.run_as_leader()
        except DeptbusError as error:
            found: Exception = error
        except ExceptionGroup as group:  # of duties that failed together
            if group.split(DeptbusError)[1] is not None:
                raise
            found = group.exceptions[0]
        if str(found) != told:
            told = str(found)
            log.warning("operations_interrupted", error=told)
        await asyncio.sleep(_AGAIN_SECONDS)


async def _until(event: asyncio.Event, duties: Coroutine[Any, Any, None]) -> None:
    """Runs duties until they raise or the event is set; then they are cancelled."""
    working = asyncio.ensure_future(duties)
    ending = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((working, ending), return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending.cancel()
        working.cancel()
        results = await asyncio.gather(working, return_exceptions=True)
    (result,) = results
    if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
        raise result
