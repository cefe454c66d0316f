"""What agents report and how far jobs are: the two small topics that jobs are steered by."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import WireRefused
from deptbus.operations.proposals import PROPOSAL_RECORDS, Proposals
from deptbus.operations.replay_orders import ORDER_RECORDS, Orders
from deptbus.stream.follow import TopicFollower
from deptbus.stream.log import LogRecord
from deptbus.stream.policies import LEASE_SECONDS
from deptbus.wire.control import AgentReport, JobProgress, TopicNoted, decode_control

log = structlog.get_logger(__name__)

Kind = TypeVar("Kind")

# A clock that is wrong by more than this hides an agent from us; within it only our own clock says
# how long an agent has been silent.
CLOCK_SLACK_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class SeenReport:
    report: AgentReport
    seen_at: float  # our monotonic clock, seconds


def agents_that_hold(
    reports: Mapping[str, SeenReport],
    policy: int,
    *,
    now: float,
    wall_us: int,
    lease_seconds: float = LEASE_SECONDS,
) -> list[str] | None:
    """Agents that a job of `policy` must still wait for, sorted; None when no agent is live.

    Live: it does not say that it stopped, and was heard of within the lease, by our clock (a wrong
    clock of its own must not make it look dead). An agent that was silent for longer delivers
    nothing, because its own reading of the contract is older than the same lease; what it may
    still send late is refused behind the job's marker. With no live agent nothing flows, and the
    job waits for the first.
    """
    oldest_us = wall_us - int(CLOCK_SLACK_SECONDS * 1_000_000)
    live = [
        seen.report
        for seen in reports.values()
        if seen.report.state != "stopped"
        and now - seen.seen_at <= lease_seconds
        and seen.report.reported_at_us >= oldest_us
    ]
    if not live:
        return None
    return sorted(report.agent for report in live if report.policy < policy)


class AgentsBoard(TopicFollower):
    """The last report of every agent."""

    def __init__(self, connection: Connection, *, lease_seconds: float = LEASE_SECONDS) -> None:
        super().__init__(connection, names.AGENTS)
        self._lease_seconds = lease_seconds
        self.reports: dict[str, SeenReport] = {}

    def take(self, records: list[LogRecord]) -> None:
        for record in records:
            report = _decoded(record, AgentReport)
            if report is not None:
                self.reports[report.agent] = SeenReport(report, time.monotonic())

    def awaited(self, policy: int) -> list[str] | None:
        """See `agents_that_hold`. Call `refresh` before, so that no report is overlooked."""
        return agents_that_hold(
            self.reports,
            policy,
            now=time.monotonic(),
            wall_us=time.time_ns() // 1000,
            lease_seconds=self._lease_seconds,
        )


class JobsBoard(TopicFollower):
    """The last progress of every job, by the job's name; the ids of topics that were noted; and
    what people ordered and proposed."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, names.JOBS)
        self.jobs: dict[str, JobProgress] = {}
        self.topic_ids: dict[str, str] = {}
        self.orders = Orders()
        self.proposals = Proposals()

    def take(self, records: list[LogRecord]) -> None:
        for record in records:
            found = _decoded(record, JobProgress, TopicNoted, *ORDER_RECORDS, *PROPOSAL_RECORDS)
            if isinstance(found, JobProgress):
                self.jobs[found.job] = found
            elif isinstance(found, TopicNoted):
                self.topic_ids[found.topic] = found.topic_id
            elif isinstance(found, ORDER_RECORDS):
                self.orders.take(found)
            elif isinstance(found, PROPOSAL_RECORDS):
                self.proposals.take(found)


def _decoded(record: LogRecord, *kinds: type[Kind]) -> Kind | None:
    """None for a record of none of these kinds: it is told, and its neighbours count."""
    try:
        found = decode_control(record.value or b"")
    except WireRefused as error:
        reason = error.reason
    else:
        if isinstance(found, kinds):
            return found
        reason = "wrong_kind"
    log.error("report_refused", topic=record.topic, offset=record.offset, reason=reason)
    return None
