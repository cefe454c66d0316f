"""Alarms as the bus keeps them: what was told of each, and who has acknowledged it.

`bus.alarms` is compacted, with one record for what was told of a subject, which whoever watches
writes, and one for who has seen it, which whoever acknowledges writes: neither overwrites the
other. An acknowledgement is an act in `bus.audit` first.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import DeptbusError, Exit, WireRefused
from deptbus.operations.alarms import Ack, Alarm, Kind, Notice
from deptbus.operations.audit import ALARM_ACK, Operator, acts_of, record
from deptbus.stream.follow import TopicFollower
from deptbus.stream.log import LogRecord, Outgoing, Sender, read_to_end
from deptbus.wire.control import (
    AlarmSeen,
    AlarmTold,
    check_key,
    decode_control,
    encode_control,
    key_of,
)

log = structlog.get_logger(__name__)


class Kept:
    """What the topic says, record by record."""

    def __init__(self) -> None:
        self.told: dict[str, AlarmTold] = {}  # by subject
        self.seen: dict[str, AlarmSeen] = {}

    def take(self, records: Iterable[LogRecord]) -> None:
        for entry in records:
            try:
                found = decode_control(entry.value)
                check_key(entry.key, found)
            except WireRefused as error:
                log.error("alarm_record_refused", offset=entry.offset, reason=error.reason)
                continue
            if isinstance(found, AlarmTold):
                self.told[found.subject] = found
            elif isinstance(found, AlarmSeen):
                self.seen[found.subject] = found

    def acks(self) -> dict[str, Ack]:
        return {s: Ack(seen.alarm, seen.severity) for s, seen in self.seen.items()}

    def seen_of(self, told: AlarmTold) -> AlarmSeen | None:
        """The acknowledgement that still counts for this alarm."""
        seen = self.seen.get(told.subject)
        is_of_it = seen is not None and seen.alarm == told.alarm
        return seen if is_of_it and seen is not None and seen.severity >= told.severity else None

    def open(self) -> list[AlarmTold]:
        """The worst first, then the oldest."""
        found = [told for told in self.told.values() if told.kind != Kind.OVER]
        return sorted(found, key=lambda t: (-t.severity, t.raised_at_us, t.subject))


class AlarmsBoard(TopicFollower):
    """Follows them; `changed` says when there is something new."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, names.ALARMS)
        self.kept = Kept()

    async def __aenter__(self) -> AlarmsBoard:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def take(self, records: list[LogRecord]) -> None:
        self.kept.take(records)

    def made_again(self) -> None:
        super().made_again()
        self.kept = Kept()


async def read_alarms(connection: Connection) -> Kept:
    """Raises BusUnreachable, BusRefused (no such topic: `deptbus topics apply` makes it)."""
    kept = Kept()
    kept.take(await read_to_end(connection, names.ALARMS))
    return kept


def alarm_of(told: AlarmTold) -> Alarm:
    notice = Notice(
        told.alarm,
        told.number,
        Kind(told.kind),
        told.subject,
        told.word,
        told.severity,
        told.told_at_us / 1e6,
    )
    return Alarm(told.subject, told.raised_at_us / 1e6, notice)


def outgoing(told: AlarmTold | AlarmSeen) -> Outgoing:
    return Outgoing(names.ALARMS, 0, key_of(told), encode_control(told))


def chosen(kept: Kept, names_of: Sequence[str]) -> list[AlarmTold]:
    """Open alarms by their names or subjects; raises DeptbusError where one is none."""
    by_name = {told.alarm: told for told in kept.open()} | {t.subject: t for t in kept.open()}
    found = {}
    for name in names_of:
        if name not in by_name:
            error = DeptbusError(f"no alarm {name} is open", mend="See `deptbus alarm ls`")
            error.exit_code = Exit.ANSWER_IS_NO
            raise error
        found[by_name[name].subject] = by_name[name]
    return list(found.values())


async def acknowledge(
    connection: Connection, alarms: Sequence[AlarmTold], operator: Operator, reason: str
) -> None:
    """Raises BusUnreachable, BusRefused: run it again, twice changes nothing."""
    async with Sender(connection) as sender:
        act = ""
        for one in acts_of(operator, ALARM_ACK, reason, subjects=[a.subject for a in alarms]):
            await record(sender, one)
            act = one.act
        now_us = time.time_ns() // 1000
        await sender.send(
            [
                outgoing(
                    AlarmSeen(
                        told.alarm, told.subject, told.severity, act, operator.name, reason, now_us
                    )
                )
                for told in alarms
            ]
        )
