"""Reads one key's records in its own partition of every topic that it can lie in, for `trace`.

Bounded: one deadline for all of it, no more than so many records of a topic, inboxes only from when
the oldest version that is left was written. What was not looked at is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from deptbus import names
from deptbus.change import Change, Received
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusRefused, DeptbusError, WireRefused
from deptbus.operations.groups import Groups
from deptbus.operations.quarantine import Case
from deptbus.operations.quarantine_desk import codecs_of, read_quarantine
from deptbus.operations.search import find_key, offset_at
from deptbus.operations.trace import Arrival, Seen, Trace, recipients_of, versions_of, waits_of
from deptbus.routing import Router
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord, read_to_end, topic_partitions
from deptbus.stream.policies import PolicyHistory
from deptbus.wire.codecs import Codecs
from deptbus.wire.partitioner import partition_of

log = structlog.get_logger(__name__)

Kind = TypeVar("Kind")

_SOURCES = 50  # outboxes that are searched for a key of which `data` knows no source
_POLICIES = 20  # the last ones, by which its recipients are found
_SLACK_MS = 60_000  # by which clocks of those who write may differ


async def trace(
    connection: Connection,
    history: PolicyHistory,
    dataset: str,
    key: bytes,
    *,
    unit: str = "",
    deadline: float,
) -> Trace:
    """`unit`: the source, where it is known. Raises DeptbusError (unknown dataset, too many units
    that it could be of), BusUnreachable, BusRefused."""
    contract = history.current().contract
    if dataset not in contract.datasets:
        raise DeptbusError(
            f"the contract has no dataset {dataset}", mend="See `deptbus contract show`"
        )
    async with Groups(connection) as groups:
        return await _Search(connection, groups, history, dataset, key, deadline).run(unit)


class _Search:
    """One trace, step by step."""

    def __init__(
        self,
        connection: Connection,
        groups: Groups,
        history: PolicyHistory,
        dataset: str,
        key: bytes,
        deadline: float,
    ) -> None:
        self._connection, self._groups = connection, groups
        self._history, self._deadline = history, deadline
        self._codecs = codecs_of(history)
        self._found = Trace(dataset, key)

    async def run(self, unit: str) -> Trace:
        found, now = self._found, datetime.now(UTC)
        topic = names.data_topic(found.dataset)
        data = _only(Change, await self._read(topic, names.WORKER_GROUP, _data_of(self._codecs)))
        cases = await self._cases()
        out: list[tuple[Change, Seen]] = []
        for source in self._sources(unit, data, cases):
            outbox = names.out_topic(source)
            out += _only(
                Change, await self._read(outbox, names.WORKER_GROUP, _out_of(self._codecs))
            )
        found.versions = versions_of(out, data, cases)
        await self._learn_schemas()
        for recipient in sorted(self._recipients(now)):
            found.arrivals += await self._arrivals(recipient)
        policy = self._history.current()
        free = Router(policy.model_copy(update={"holds": ()}))
        found.waits = waits_of(found.versions, found.arrivals, free, policy, now)
        return found

    # -- steps ------------------------------------------------------------------------------------

    def _sources(
        self, unit: str, data: Iterable[tuple[Change, Seen]], cases: Iterable[Case]
    ) -> list[str]:
        known = {change.source_unit for change, _ in data} | {case.unit for case in cases}
        known |= {unit} if unit else set()
        known.discard("")
        if not known:
            contract = self._history.current().contract
            known = {u.unit for u in contract.units if _publishes(contract, u.unit, self._found)}
            if len(known) > _SOURCES:
                raise DeptbusError(
                    f"{self._found.dataset} knows no such key, and {len(known)} units may have it",
                    mend="Give --unit, the source",
                )
        return sorted(known)

    async def _cases(self) -> list[Case]:
        quarantine = await read_quarantine(
            self._connection, self._history, deadline=self._deadline, key=self._found.key
        )
        return [c for c in quarantine.cases if c.note.dataset in ("", self._found.dataset)]

    async def _learn_schemas(self) -> None:
        for record in await read_to_end(self._connection, names.SCHEMAS):
            try:
                number = int.from_bytes(record.key or b"", "big")
                self._codecs.add_schema(number, record.value or b"")
            except WireRefused as error:
                log.error("schema_refused", offset=record.offset, reason=error.reason)

    def _recipients(self, now: datetime) -> set[str]:
        numbers = sorted(self._history.policies)[-_POLICIES:]
        # What is held back now may have been delivered before.
        routers = [
            Router(self._history.policies[n].model_copy(update={"holds": ()})) for n in numbers
        ]
        return recipients_of((v.change for v in self._found.versions), routers, now)

    async def _arrivals(self, unit: str) -> list[Arrival]:
        known = self._history.current().contract.unit_by_name.get(unit)
        systems = known.systems if known is not None else ()
        oldest = min(
            (seen.written_at_ms for v in self._found.versions for seen in (v.out, v.data) if seen),
            default=0,
        )
        groups = [names.adapter_group(unit, system) for system in systems]
        read = await self._read(
            names.in_topic(unit), groups, _in_of(self._codecs), since_ms=oldest - _SLACK_MS
        )
        return [Arrival(unit, r, seen) for r, seen in read if isinstance(r, Received)]

    # -- reading ----------------------------------------------------------------------------------

    async def _read(
        self,
        topic: str,
        groups: str | list[str],
        decode: Callable[[LogRecord], object],
        since_ms: int = 0,
    ) -> list[tuple[object, Seen]]:
        """The key's records in a topic that can be read; one that is missing or was not read to its
        end is told."""
        try:
            partitions = (await topic_partitions(self._connection, [topic]))[topic]
        except BusRefused:
            self._found.not_looked_at.append(topic)
            return []
        partition, start = partition_of(self._found.key, partitions), 0
        if since_ms > 0:
            start = await offset_at(self._connection, topic, partition, since_ms)
        committed = await self._committed(groups, topic, partition)
        found = await find_key(
            self._connection,
            topic,
            partition,
            self._found.key,
            deadline=self._deadline,
            from_offset=start,
        )
        if not found.is_whole:
            self._found.not_looked_at.append(topic)
        answers = []
        for entry in found.records:
            is_read = None if committed is None else entry.offset < committed
            seen = Seen(topic, partition, entry.offset, entry.timestamp_ms, is_read)
            try:
                answers.append((decode(entry), seen))
            except WireRefused:
                continue  # intake or the adapter have their own note of it
        return answers

    async def _committed(self, groups: str | list[str], topic: str, partition: int) -> int | None:
        """Up to where all of these groups have read; None when one never committed."""
        found = []
        for group in [groups] if isinstance(groups, str) else groups:
            at = await self._groups.committed(group, [(topic, partition)])
            if partition not in at:
                return None
            found.append(at[partition])
        return min(found, default=None)


def _publishes(contract: Contract, unit: str, found: Trace) -> bool:
    return contract.may_publish(unit, found.dataset)


def _only(kind: type[Kind], read: Iterable[tuple[object, Seen]]) -> list[tuple[Kind, Seen]]:
    return [(record, seen) for record, seen in read if isinstance(record, kind)]


def _data_of(codecs: Codecs) -> Callable[[LogRecord], object]:
    return lambda entry: decode_data(codecs, entry.key, entry.value)


def _out_of(codecs: Codecs) -> Callable[[LogRecord], object]:
    return lambda entry: codecs.decode_out(entry.key, entry.value)


def _in_of(codecs: Codecs) -> Callable[[LogRecord], object]:
    return lambda entry: codecs.decode_inbox(entry.key, entry.value)
