"""Figures of alarms for Prometheus: how many are open, what has not arrived, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from deptbus.metrics.families import Families
from deptbus.operations.alarm_desk import AlarmDesk
from deptbus.operations.alarms import scope_of
from deptbus.operations.findings import Scope

OUTCOMES = ("delivered", "failed")


class AlarmCollector(Collector):
    """Called at each scrape, from whichever thread serves it."""

    def __init__(self, desk: AlarmDesk) -> None:
        self._desk = desk

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        told = Families()
        counts = Counter(scope_of(alarm.subject) for alarm in self._desk.open())
        for scope in Scope:
            told.tell("deptbus_alarms_open", [scope.value], counts[scope.value])
        for way, count in self._desk.pending().items():
            told.tell("deptbus_alarm_notices_pending", [way], count)
            for outcome in OUTCOMES:
                tries = self._desk.outcomes[way, outcome]
                told.tell("deptbus_alarm_deliveries_total", [way, outcome], tries)
        yield from told
