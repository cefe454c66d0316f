"""Keeps looking at the cluster: one report that is always the last one, and why there is none.

No look that fails ends it, whatever it was that failed: who watches must not be what dies first.
A look that does not come back is given up. After a failed look there is no report: what was seen
before is not so now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog

from deptbus.connection import Connection
from deptbus.errors import BusUnreachable, DeptbusError
from deptbus.operations.cluster_metrics import ClusterReport
from deptbus.operations.freshness_report import FreshnessRow, look_at_freshness
from deptbus.operations.lag_watch import LagReport, LagWatch
from deptbus.operations.proofs import Proved, joined, read_proved
from deptbus.operations.quarantine import Case
from deptbus.operations.quarantine_desk import read_quarantine
from deptbus.operations.search import deadline_in
from deptbus.operations.verdicts import Limits
from deptbus.stream.policies import read_policies

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """In seconds."""

    look: float = 5.0  # between two looks at lag
    rare: float = 60.0  # at freshness, quarantine and proofs, which read more
    deadline: float = 60.0  # of one look
    search: float = 20.0  # for what overtook a case of quarantine


USUAL_PACE = Pace()


@dataclass(slots=True)
class Sight:
    """What was seen last. `trouble`: why nothing was; `at`: when that look ended, by the monotonic
    clock; None: none has ended yet."""

    report: ClusterReport | None = None
    trouble: str = ""
    at: float | None = None
    looks: int = 0
    freshness: list[FreshnessRow] | None = field(default=None, repr=False)
    quarantine: tuple[Case, ...] | None = field(default=None, repr=False)
    proofs: Proved | None = field(default=None, repr=False)


class Lookout:
    """`run` until cancelled; `took` is called after every look at lag, one at a time."""

    def __init__(
        self,
        connection: Connection,
        limits: Limits,
        took: Callable[[], Awaitable[None]],
        pace: Pace = USUAL_PACE,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._limits, self._took, self._pace = connection, limits, took, pace
        self._now = now
        self._watch: LagWatch | None = None
        self.sight = Sight()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._for_ever("lag", self._look, self._pace.look))
                group.create_task(self._for_ever("freshness", self._freshness, self._pace.rare))
                group.create_task(self._for_ever("quarantine", self._quarantine, self._pace.rare))
                group.create_task(self._for_ever("proofs", self._proofs, self._pace.rare))
        finally:
            await self._forget()

    async def _for_ever(
        self, what: str, look: Callable[[], Awaitable[None]], seconds: float
    ) -> None:
        said = ""
        while True:
            began = time.monotonic()
            trouble = await self._one(what, look)
            if trouble and trouble != said:
                log.warning("look_failed", what=what, error=trouble)
            elif said and not trouble:
                log.info("look_works_again", what=what)
            said = trouble
            if what == "lag":
                await self._settle(trouble)
            elif trouble:
                setattr(self.sight, what, None)
            pause = min(seconds, self._pace.look) if trouble else seconds
            await asyncio.sleep(max(0.1, pause - (time.monotonic() - began)))

    async def _one(self, what: str, look: Callable[[], Awaitable[None]]) -> str:
        """One look; why it failed, or empty."""
        try:
            async with asyncio.timeout(self._pace.deadline):
                await look()
        except DeptbusError as error:
            return str(error)
        except TimeoutError:
            return f"a look took longer than {self._pace.deadline:.0f} s"
        except Exception as error:
            log.error("look_broke", what=what, error=type(error).__name__, exc_info=True)
            if what == "lag":
                await self._forget()
            return f"our own bug: {type(error).__name__}"
        return ""

    async def _settle(self, trouble: str) -> None:
        sight = self.sight
        sight.trouble, sight.at, sight.looks = trouble, time.monotonic(), sight.looks + 1
        if trouble:
            sight.report = None
        try:
            await self._took()
        except Exception as error:
            log.error("look_broke", what="alarms", error=type(error).__name__, exc_info=True)

    async def _forget(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.stop()

    # --- looks --------------------------------------------------------------------------------

    async def _look(self) -> None:
        if self._watch is None:
            watch = LagWatch(self._connection, self._limits, self._now)
            try:
                await watch.start()
            except BaseException:
                await watch.stop()
                raise
            self._watch = watch
        self._put(await self._watch.look())

    def _put(self, lag: LagReport) -> None:
        proofs = self.sight.proofs
        rows = None if proofs is None else proofs.rows(joined(lag), lag.at)
        seen = self.sight
        seen.report = ClusterReport(lag, seen.freshness, seen.quarantine, rows)

    async def _freshness(self) -> None:
        if not self._has_contract():
            self.sight.freshness = None
            return
        self.sight.freshness = await look_at_freshness(self._connection, self._now)

    async def _quarantine(self) -> None:
        if not self._has_contract():
            self.sight.quarantine = None
            return
        history = await read_policies(self._connection)
        found = await read_quarantine(
            self._connection, history, deadline=deadline_in(self._pace.search)
        )
        # What may be overtaken unknown to us is nobody's matter yet.
        self.sight.quarantine = found.cases if found.is_whole else None

    async def _proofs(self) -> None:
        self.sight.proofs = await read_proved(self._connection) if self._has_contract() else None

    def _has_contract(self) -> bool:
        """As the last look at lag had it; raises BusUnreachable where there was none."""
        report = self.sight.report
        if report is None:
            raise BusUnreachable(self.sight.trouble or "nobody has looked yet")
        return report.lag.contract is not None
