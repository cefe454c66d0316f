"""What a job's tests need around it: contracts, an agent, a recipient, and what it should end with.

The agent and the recipient are small and of our own, so that the order of their steps is the
test's choice; they use the real routing and the real bytes.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from deptbus import names
from deptbus.change import Cause, Change, ChangeOp, DeliveryOp, Incarnation, Reason, Received
from deptbus.cluster import topics
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Dataset, Grant, Line, Policy, Rule, Sharing, Unit
from deptbus.operations.office import Settings, open_office
from deptbus.routing import Router
from deptbus.stream.log import Outgoing, Sender, read_to_end
from deptbus.stream.policies import append_policy, read_policies
from deptbus.stream.schemas import write_schemas
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import (
    AgentReport,
    JobProgress,
    ResendRequest,
    decode_control,
    encode_control,
    key_of,
)
from deptbus.wire.partitioner import partition_of

SOURCE, HOUSING, GRID = "police@330106", "housing@330106", "grid@330106109"
PLACES = ("330106109051", "330106109052", "330106110001")
FIELDS = ("id", "place", "name", "phone", "salary")
PARTITIONS = 4
DEADLINE_SECONDS = 60.0


def contract(
    *,
    housing: tuple[str, ...] = ("id", "place", "name"),
    grid: tuple[str, ...] = ("id", "place"),
    grants: tuple[Grant, ...] = (),
    units: tuple[str, ...] = (SOURCE, HOUSING, GRID),
) -> Contract:
    """police@330106 publishes `person`; empty fields: that line has no rule."""
    rules = []
    if housing:
        rules.append(
            Rule(rule="beside", direction="horizontal", lines=("housing",), fields=housing)
        )
    if grid:
        rules.append(Rule(rule="back", direction="return", lines=("grid",), fields=grid))
    dataset = Dataset(
        title="Person",
        title_zh="人员",
        line="police",
        levels=("county",),
        schema_version=1,
        key=("id",),
        division="place",
        sharing={
            name: Sharing.CONDITIONAL if name == "salary" else Sharing.UNCONDITIONAL
            for name in FIELDS
        },
        receivers=tuple(rules),
    )
    schema = {
        "type": "record",
        "name": "Person",
        "fields": [{"name": name, "type": "string"} for name in FIELDS],
    }
    return Contract(
        territories={"330106": "Xihu", "330106109": "a town"},
        lines={n: Line(title=n, title_zh=n) for n in ("police", "housing", "grid")},
        units=tuple(Unit(unit=u, title=u, title_zh=u, owner="office") for u in units),
        datasets={"person": dataset},
        grants=grants,
        schemas={"person.v1": schema},
        partitions=PARTITIONS,
    )


def salary_grant(until: date) -> Grant:
    return Grant(
        grant="salaries",
        unit=HOUSING,
        dataset="person",
        fields=("salary",),
        purpose="a test",
        territory="330106",
        starts=date(2026, 1, 1),
        until=until,
    )


def key_of_person(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()[:16]


def person(
    codecs: Codecs,
    number: int,
    version: int = 1,
    *,
    place: str | None = None,
    formers: tuple[str, ...] = (),
    reason: Reason | None = None,
) -> Change:
    place = place or PLACES[number % len(PLACES)]
    values = {"id": str(number), "place": place, "name": f"n{number}v{version}"}
    values |= {"phone": f"p{number}v{version}", "salary": f"s{number}v{version}"}
    return Change(
        dataset="person",
        key=key_of_person(number),
        op=ChangeOp.UPSERT if reason is None else ChangeOp.DELETE,
        reason=reason,
        source_unit=SOURCE,
        incarnation=Incarnation(1, b"12345678"),
        version=version,
        source_time_us=1,
        publication=1,
        division=place,
        former_divisions=formers,
        cause=Cause.LIVE,
        job=None,
        policy=1,
        schema_version=1,
        record=codecs.record_codec("person", 1).encode(values) if reason is None else None,
    )


async def until(
    condition: Callable[[], object], what: str, deadline_seconds: float = DEADLINE_SECONDS
) -> None:
    """Waits until the condition is true; awaits it first when it gives an awaitable."""
    deadline = time.monotonic() + deadline_seconds
    while True:
        answer = condition()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return
        assert time.monotonic() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.02)


async def make_again(bus: Bus, topic: str, partitions: int = PARTITIONS) -> None:
    """Deleted by mistake, and made again a moment later."""
    admin = AdminClient(bus.connection.librdkafka())
    deleted = admin.delete_topics([topic], operation_timeout=30)[topic]
    await asyncio.to_thread(deleted.result, 30)

    async def is_made() -> bool:
        made = admin.create_topics([NewTopic(topic, partitions, 1)])[topic]
        try:
            await asyncio.to_thread(made.result, 30)
        except KafkaException:
            return False  # marked for deletion still
        return True

    await until(is_made, f"{topic} is made again")


@dataclass
class Bus:
    """One broker with the topics of a contract, and ways to act on it by hand."""

    connection: Connection
    sender: Sender = field(init=False)
    codecs: Codecs = field(default_factory=lambda: Codecs(contract()))

    async def __aenter__(self) -> Bus:
        self.make_topics(contract())
        self.sender = Sender(self.connection)
        await self.sender.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.sender.stop()

    def make_topics(self, wanted: Contract) -> None:
        plan = topics.plan(self.connection, topics.wanted(wanted))
        topics.apply(self.connection, plan)

    async def activate(self, new: Contract, activated_at: datetime | None = None) -> Policy:
        self.make_topics(new)
        policy = Policy(
            number=(await read_policies(self.connection)).last + 1,
            activated_at=activated_at or datetime.now(UTC),
            activated_by="test",
            contract=new,
        )
        await append_policy(self.connection, policy)
        return policy

    async def write(self, *changes: Change) -> None:
        """Into data.person, as intake does."""
        await self.sender.send(
            [
                Outgoing(
                    "data.person",
                    partition_of(c.key, PARTITIONS),
                    c.key,
                    self.codecs.encode_change(c),
                )
                for c in changes
            ]
        )

    async def report(self, agent: str, policy: int, state: str = "running") -> None:
        report = AgentReport(agent, policy, "", state, time.time_ns() // 1000)
        await self.sender.send([Outgoing(names.AGENTS, 0, key_of(report), encode_control(report))])

    async def changes(self) -> list[Change]:
        """Of data.person, in the order of each partition."""
        found = await read_to_end(self.connection, "data.person")
        return [self.codecs.decode_change(r.key, r.value) for r in found]

    async def last_progress(self) -> dict[str, JobProgress]:
        jobs = {}
        for record in await read_to_end(self.connection, names.JOBS):
            progress = decode_control(record.value)
            if isinstance(progress, JobProgress):
                jobs[progress.job] = progress
        return jobs

    @asynccontextmanager
    async def office(self, **settings):
        """Duties of an operations process, running; it is cancelled at the end."""
        async with open_office(self.connection, Settings(**settings)) as office:
            duties = asyncio.create_task(office.run_duties())
            try:
                yield office
                if duties.done():
                    duties.result()
            finally:
                duties.cancel()
                await asyncio.gather(duties, return_exceptions=True)

    async def is_done(self, unit: str, policy: int) -> bool:
        progress = (await self.last_progress()).get(f"{unit}/{policy}")
        return progress is not None and progress.state == "done"

    async def job_done(self, unit: str, policy: int) -> None:
        await until(lambda: self.is_done(unit, policy), f"the job {unit}/{policy}")


class Agent:
    """Routes what it has not routed yet, under the policy that it was told of."""

    def __init__(self, bus: Bus, name: str, policy: Policy) -> None:
        self.bus = bus
        self.name = name
        self.policy = policy
        self.routed: dict[int, int] = {}

    async def report(self, state: str = "running") -> None:
        await self.bus.report(self.name, self.policy.number, state)

    async def adopt(self, policy: Policy) -> None:
        self.policy = policy
        await self.report()

    @asynccontextmanager
    async def alive(self):
        """Reports again and again, as agents do."""

        async def again() -> None:
            while True:
                await self.report()
                await asyncio.sleep(0.3)

        await self.report()
        task = asyncio.create_task(again())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def route(self) -> None:
        router, out = Router(self.policy), []
        records = await read_to_end(self.bus.connection, "data.person", from_offsets=self.routed)
        for record in records:
            change = self.bus.codecs.decode_change(record.key, record.value)
            deliveries = router.route(change, datetime.now(UTC))
            values = self.bus.codecs.encode_deliveries(change, deliveries, self.policy.number)
            for delivery, value in zip(deliveries, values, strict=True):
                topic = names.in_topic(delivery.unit)
                out.append(Outgoing(topic, record.partition, record.key, value))
            self.routed[record.partition] = record.offset + 1
        await write_schemas(self.bus.sender, self.bus.codecs.take_new_schemas())
        await self.bus.sender.send(out)


class Copy:
    """A recipient's copy, folded from its inbox by the rules of an adapter: newer is a greater
    (version, policy); behind a marker nothing counts that was decided under an older policy."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self.rows: dict[bytes, Received] = {}
        self.rule_since: dict[tuple[int, str], int] = {}  # (partition, dataset) -> policy
        self.refused = 0

    def take(self, partition: int, key: bytes | None, value: bytes) -> None:
        if key is None:
            marker = decode_control(value)
            for dataset in marker.datasets:
                place = partition, dataset
                self.rule_since[place] = max(marker.policy, self.rule_since.get(place, 0))
            return
        received = self.codecs.decode_inbox(key, value)
        if received.policy < self.rule_since.get((partition, received.dataset), 0):
            self.refused += 1
            return
        known = self.rows.get(key)
        if known is None or (received.version, received.policy) > (known.version, known.policy):
            self.rows[key] = received

    def table(self) -> dict[str, dict[str, str]]:
        """id -> the fields of the row, of all rows that are there."""
        found = {}
        for row in self.rows.values():
            if row.op is DeliveryOp.UPSERT:
                codec = self.codecs.record_codec("person", 1, row.fields)
                values = codec.decode(row.record)
                found[values["id"]] = values
        return found


async def copy_of(bus: Bus, unit: str) -> Copy:
    """What a recipient's copy is when it has applied its whole inbox."""
    codecs = Codecs(contract())
    # The inbox first: the schema of what lies there is on the bus by then.
    records = await read_to_end(bus.connection, names.in_topic(unit))
    for record in await read_to_end(bus.connection, names.SCHEMAS):
        codecs.add_schema(int.from_bytes(record.key, "big"), record.value)
    copy = Copy(codecs)
    for record in records:
        copy.take(record.partition, record.key, record.value)
    return copy


async def entitled(
    bus: Bus, unit: str, policy: Policy, now: datetime | None = None
) -> dict[str, dict[str, str]]:
    """What a copy should hold, straight from the source's last states."""
    last: dict[bytes, Change] = {}
    for change in await bus.changes():
        if change.key not in last or change.version >= last[change.key].version:
            last[change.key] = change
    router, codec = Router(policy), bus.codecs.record_codec("person", 1)
    table = {}
    for change in last.values():
        delivery = router.route_for(change, unit, now or datetime.now(UTC))
        if delivery is not None and delivery.op is DeliveryOp.UPSERT:
            values = codec.decode(change.record)
            table[values["id"]] = {name: values[name] for name in delivery.fields}
    return table


class Recipient:
    """Applies an inbox at a pace and commits, as an adapter does; `apply` is a pause a record."""

    def __init__(self, bus: Bus, unit: str, seconds_a_record: float = 0.0) -> None:
        self.bus, self.unit = bus, unit
        self.seconds_a_record = seconds_a_record
        self.applied = 0
        self.largest_backlog = 0

    @asynccontextmanager
    async def running(self):
        topic = names.in_topic(self.unit)
        consumer = AIOKafkaConsumer(
            group_id=names.adapter_group(self.unit, "main"),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            **self.bus.connection.aiokafka(),
        )
        await consumer.start()
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        for place in places:
            consumer.seek(place, await consumer.committed(place) or 0)
        task = asyncio.create_task(self._apply(consumer))
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await consumer.stop()

    async def _apply(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            for place, records in (await consumer.getmany(timeout_ms=50, max_records=500)).items():
                await asyncio.sleep(self.seconds_a_record * len(records))
                await consumer.commit({place: records[-1].offset + 1})
                self.applied += len(records)


def moved(changes: Iterable[Change], codecs: Codecs, place: str) -> list[Change]:
    """Each of these records at another place, one version later."""
    found = []
    for change in changes:
        number = int(codecs.record_codec("person", 1).decode(change.record)["id"])
        formers = (change.division, *change.former_divisions)
        found.append(person(codecs, number, change.version + 1, place=place, formers=formers))
    return found


def days(count: int) -> timedelta:
    return timedelta(days=count)


async def requests_at(bus: Bus, unit: str = SOURCE) -> list[ResendRequest]:
    """What lies in its inbox."""
    records = await read_to_end(bus.connection, names.in_topic(unit))
    found = [decode_control(record.value) for record in records if record.key is None]
    return [request for request in found if isinstance(request, ResendRequest)]
