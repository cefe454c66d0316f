"""The process that watches beside the bus: looks, tells figures and schemas, and raises alarms.

Parts that know nothing of each other: the lookout sees, the desk decides and tells, the shelf holds
schemas. Whoever serves HTTP already mounts `monitor_http.monitor_app` and awaits `Monitor.run`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from deptbus.connection import Connection
from deptbus.metrics.catalogue import Teller
from deptbus.metrics.endpoint import registry_of
from deptbus.operations.alarm_desk import AlarmDesk
from deptbus.operations.alarm_metrics import AlarmCollector
from deptbus.operations.alarm_settings import AlarmSettings
from deptbus.operations.cluster_metrics import ClusterCollector
from deptbus.operations.findings import found_of
from deptbus.operations.lookout import USUAL_PACE, Lookout, Pace
from deptbus.operations.schema_shelf import SchemaShelf
from deptbus.operations.verdicts import USUAL, Limits

STALE_LOOKS = 4  # a lookout that finished no look for so many turns does not work


class Monitor:
    """`run` until cancelled; everything else at any time, from any thread."""

    def __init__(
        self,
        connection: Connection,
        settings: AlarmSettings,
        limits: Limits = USUAL,
        pace: Pace = USUAL_PACE,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._pace, self._now = pace, now
        self.lookout = Lookout(connection, limits, self._took, pace, now)
        self.alarms = AlarmDesk(connection, settings, now)
        self.schemas = SchemaShelf(connection)
        cluster = ClusterCollector(lambda: self.lookout.sight.report)
        self.metrics = registry_of(Teller.MONITOR, cluster, AlarmCollector(self.alarms))

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for part in (self.lookout, self.alarms, self.schemas):
                group.create_task(part.run())

    async def _took(self) -> None:
        sight = self.lookout.sight
        await self.alarms.take(found_of(sight.report, sight.trouble, self._now()))

    def trouble(self) -> str:
        """Why it could not look, or empty: ready."""
        sight = self.lookout.sight
        if sight.at is None:
            return "it has not looked yet"
        silent = time.monotonic() - sight.at
        if silent > self._pace.deadline + STALE_LOOKS * self._pace.look:
            return f"no look has ended for {silent:.0f} s"
        return sight.trouble
