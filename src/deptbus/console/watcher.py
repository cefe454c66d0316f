"""The one reader of the bus behind all pages: looks again and again, and puts what it saw on the
board. A bus that goes away is told there, with the time of the last look that reached it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.console.snapshot import FLOWS_SECONDS, Board
from deptbus.console.tail import Tail
from deptbus.errors import BusRefused, DeptbusError, WireRefused
from deptbus.operations.alarms_board import Kept
from deptbus.operations.catalogue import dataset_sheets
from deptbus.operations.lookout import Lookout
from deptbus.operations.picture import Flow, LiveFeed
from deptbus.operations.proofs import Proved, Subject, outcomes_of
from deptbus.operations.proposals import PROPOSAL_RECORDS, Proposals, standings
from deptbus.operations.quarantine import UNRESOLVED
from deptbus.operations.quarantine_desk import read_quarantine
from deptbus.operations.replay_apply import standing_of
from deptbus.operations.replay_orders import ORDER_RECORDS, Orders
from deptbus.operations.search import deadline_in
from deptbus.operations.unit_sheet import unit_sheets
from deptbus.stream.policies import PolicyHistory
from deptbus.wire.control import Act, ProofOutcome, decode_control

log = structlog.get_logger(__name__)

SIGHT_SECONDS = 0.25
LIVE_SECONDS = 0.5
TOPICS_SECONDS = 2.0
OVERTAKEN_SECONDS = 30.0  # so often it is looked whether cases of quarantine are superseded
SHEETS_SECONDS = 300.0  # a grant may begin or end by the clock alone
_SEARCH_SECONDS = 20.0
_BACKOFF_SECONDS = (1.0, 15.0)


class Watcher:
    """`run` until cancelled. `lookout`: of lag and freshness; whoever made it runs it, because
    others see through it as well. `feed`: of what moves; it is started and stopped here."""

    def __init__(
        self, connection: Connection, board: Board, lookout: Lookout, feed: LiveFeed
    ) -> None:
        self._connection, self._board = connection, board
        self._lookout, self._feed = lookout, feed
        self._history = PolicyHistory()
        self._policies = Tail(connection, names.CONTRACT)
        self._audit = Tail(connection, names.AUDIT)
        self._notes = Tail(connection, names.QUARANTINE)
        self._alarms = Tail(connection, names.ALARMS)
        self._jobs = Tail(connection, names.JOBS)
        self._proofs = Tail(connection, names.PROOFS)
        self._outcomes: dict[Subject, ProofOutcome] = {}
        self._acts: list[Act] = []
        self._kept = Kept()
        self._orders, self._proposals = Orders(), Proposals()
        self._cases_at = float("-inf")
        self._sheets_at = float("-inf")
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something was just done here: look at once whether it shows."""
        self._wake.set()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    self._for_ever("topics", self._look_at_topics, TOPICS_SECONDS, self._wake)
                )
                group.create_task(self._sight())
                group.create_task(self._live(self._feed))
        finally:
            for tail in (
                self._policies,
                self._audit,
                self._notes,
                self._alarms,
                self._jobs,
                self._proofs,
            ):
                await tail.stop()

    # --- loops --------------------------------------------------------------------------------

    async def _for_ever(
        self,
        what: str,
        look: Callable[[], Awaitable[None]],
        seconds: float,
        wake: asyncio.Event | None = None,
    ) -> None:
        pause = _BACKOFF_SECONDS[0]
        while True:
            try:
                await look()
                pause, wait = _BACKOFF_SECONDS[0], seconds
            except DeptbusError as error:
                log.warning("look_failed", what=what, error=error.what)
                wait = pause
                pause = min(pause * 2, _BACKOFF_SECONDS[1])
            if wake is None:
                await asyncio.sleep(wait)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await wake.wait()
            wake.clear()

    async def _sight(self) -> None:
        """What the lookout saw; it also says whether the bus is there. What was seen before stays
        on the pages, with its time."""
        looks = 0
        freshness = None
        while True:
            sight = self._lookout.sight
            if sight.looks != looks or sight.freshness is not freshness:
                looks, freshness = sight.looks, sight.freshness
                news: dict[str, object] = {"trouble": sight.trouble}
                if sight.report is not None:
                    news |= {"lag": sight.report.lag, "at": sight.report.lag.at}
                if freshness is not None:
                    news["freshness"] = tuple(freshness)
                await self._board.put(**news)
            await asyncio.sleep(SIGHT_SECONDS)

    async def _live(self, feed: LiveFeed) -> None:
        recent: list[Flow] = []
        started = False

        async def look() -> None:
            nonlocal started
            if not started:
                await feed.start()
                started = True
            live = await feed.look()
            young = time.time() - FLOWS_SECONDS
            before = len(recent)
            recent[:] = [flow for flow in recent if flow.at > young] + list(live.flows)
            board = self._board.snapshot
            changed = bool(live.flows) or len(recent) != before
            told = {
                "applied": live.applied,
                "saved": live.saved,
                "parked": live.parked,
                "retried": live.retried,
            }
            if changed or any(getattr(board, name) != value for name, value in told.items()):
                await self._board.put(flows=tuple(recent), **told)

        try:
            await self._for_ever("flows", look, LIVE_SECONDS)
        finally:
            if started:
                await feed.stop()

    # --- looks --------------------------------------------------------------------------------

    async def _look_at_topics(self) -> None:
        await self._look_at_policies()
        await self._look_at_acts()
        await self._look_at_alarms()
        await self._look_at_orders()
        await self._look_at_proofs()
        await self._look_at_cases()

    async def _look_at_policies(self) -> None:
        records, is_another = await self._policies.more()
        if is_another:
            self._history.begin_anew()
        for record in records:
            self._history.take(record.value)
        now = time.time()
        if not records and not is_another and now - self._sheets_at < SHEETS_SECONDS:
            return
        policy = self._history.current()  # raises ContractUnreadable, which is told as trouble
        at = datetime.fromtimestamp(now, UTC)
        units, datasets = await asyncio.to_thread(
            lambda: (unit_sheets(policy, at), dataset_sheets(policy, at))
        )
        self._sheets_at = now
        await self._board.put(
            policy=policy,
            units={sheet.unit: sheet for sheet in units},
            datasets={sheet.dataset: sheet for sheet in datasets},
        )

    async def _look_at_acts(self) -> None:
        records, is_another = await self._audit.more()
        if is_another:
            self._acts.clear()
        for record in records:
            try:
                act = decode_control(record.value)
            except WireRefused as error:
                log.error("act_refused", offset=record.offset, reason=error.reason)
                continue
            if isinstance(act, Act):
                self._acts.append(act)
        if records or is_another or self._board.snapshot.acts is None:
            await self._board.put(acts=tuple(self._acts))

    async def _look_at_cases(self) -> None:
        records, is_another = await self._notes.more()
        board = self._board.snapshot
        is_open = any(case.state in UNRESOLVED for case in board.cases or ())
        is_due = time.monotonic() - self._cases_at > OVERTAKEN_SECONDS and is_open
        if not (records or is_another or is_due or board.cases is None):
            return
        found = await read_quarantine(
            self._connection, self._history, deadline=deadline_in(_SEARCH_SECONDS)
        )
        self._cases_at = time.monotonic()
        await self._board.put(cases=found.cases, cases_are_whole=found.is_whole)

    async def _look_at_alarms(self) -> None:
        try:
            records, is_another = await self._alarms.more()
        except BusRefused:
            return  # a bus of an earlier version keeps none
        if is_another:
            self._kept = Kept()
        self._kept.take(records)
        if records or is_another or self._board.snapshot.alarms is None:
            kept = self._kept
            await self._board.put(alarms=tuple((one, kept.seen_of(one)) for one in kept.open()))

    async def _look_at_proofs(self) -> None:
        """Sooner than the lookout does, for whoever has just had something mended."""
        try:
            records, is_another = await self._proofs.more()
        except BusRefused:
            return  # a bus of an earlier version keeps none
        if is_another:
            self._outcomes.clear()
        self._outcomes |= outcomes_of(records)
        board, policies = self._board.snapshot, dict(self._history.policies)
        known = board.proofs
        if records or is_another or known is None or known.history.keys() != policies.keys():
            await self._board.put(proofs=Proved(policies, dict(self._outcomes)))

    async def _look_at_orders(self) -> None:
        records, is_another = await self._jobs.more()
        if is_another:
            self._orders, self._proposals = Orders(), Proposals()
        for record in records:
            try:
                told = decode_control(record.value)
            except WireRefused:
                continue  # whoever runs jobs tells of it
            if isinstance(told, ORDER_RECORDS):
                self._orders.take(told)
            elif isinstance(told, PROPOSAL_RECORDS):
                self._proposals.take(told)
        if records or is_another or self._board.snapshot.orders is None:
            jobs = sorted(self._orders.orders.values(), key=lambda o: (-o.ordered_at_us, o.job))
            orders = tuple(standing_of(self._orders, order.job) for order in jobs)
            await self._board.put(orders=orders)
        policy = self._board.snapshot.policy
        if policy is not None:  # what was proposed may expire by the clock alone
            now_us = time.time_ns() // 1000
            proposals = tuple(standings(self._proposals, policy.contract, now_us))
            if proposals != self._board.snapshot.proposals:
                await self._board.put(proposals=proposals)
