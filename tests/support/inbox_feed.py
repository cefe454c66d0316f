"""An inbox of one's own on the session's broker, and a policy that needs no topic."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from recipient_contract import ALL, CODECS, CONTRACT, LI, SOURCE

from deptbus.change import (
    Cause,
    Change,
    ChangeOp,
    Delivery,
    DeliveryOp,
    Direction,
    Incarnation,
    Reason,
)
from deptbus.connection import Connection
from deptbus.contract.model import Contract, Policy
from deptbus.errors import ContractUnreadable
from deptbus.names import SCHEMAS, in_topic
from deptbus.stream.log import Outgoing, Sender
from deptbus.stream.schemas import write_schemas
from deptbus.wire.control import Control, encode_control
from deptbus.wire.partitioner import partition_of

PARTITIONS = 2


class FixedPolicy:
    """Stands in for PolicyFollower: one policy, until a test puts the next."""

    def __init__(self, first: Contract = CONTRACT) -> None:
        self.policies: dict[int, Policy] = {}
        self.put(first)

    def put(self, contract: Contract) -> None:
        number = len(self.policies) + 1
        self.policies[number] = Policy(
            number=number,
            activated_at=datetime(2026, 1, 1, tzinfo=UTC),
            activated_by="test",
            contract=contract,
        )

    def current(self) -> Policy:
        return self.policies[len(self.policies)]

    def history(self) -> dict[int, Policy]:
        return dict(self.policies)

    async def at_least(self, number: int, deadline_seconds: float = 1) -> Policy:
        if number not in self.policies:
            raise ContractUnreadable(f"policy {number} is not on the bus")
        return self.current()


class Feed:
    """Writes deliveries into the inbox of a unit that nobody else has."""

    def __init__(self, connection: Connection, unit: str | None = None) -> None:
        self.connection = connection
        self.unit = unit or f"housing@{random.randrange(100000, 999999)}"
        self.topic = in_topic(self.unit)
        self.admin = AdminClient(connection.librdkafka())
        self.make_topic()

    def make_topic(self) -> None:
        for topic in (NewTopic(self.topic, PARTITIONS, 1), NewTopic(SCHEMAS, 1, 1)):
            for future in self.admin.create_topics([topic]).values():
                try:
                    future.result(30)
                except KafkaException as error:
                    if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                        raise

    def drop_topic(self) -> None:
        for future in self.admin.delete_topics([self.topic], operation_timeout=30).values():
            future.result(30)

    async def deliver(self, changes: Sequence[tuple[Change, Delivery]], policy: int = 1) -> None:
        async with Sender(self.connection) as sender:
            records = []
            for change, delivery in changes:
                (value,) = CODECS.encode_deliveries(change, [delivery], policy)
                records.append(self.record(change.key, value))
            await write_schemas(sender, CODECS.schemas() | CODECS.take_new_schemas())
            await sender.send(records)

    def record(self, key: bytes, value: bytes) -> Outgoing:
        return Outgoing(self.topic, partition_of(key, PARTITIONS), key, value)

    async def control(self, what: Control) -> None:
        await self.raw(*(Outgoing(self.topic, p, None, encode_control(what)) for p in range(2)))

    async def raw(self, *records: Outgoing) -> None:
        async with Sender(self.connection) as sender:
            await sender.send(records)


def upsert(
    number: int, version: int = 1, *, fields: tuple[str, ...] = ALL, **values: Any
) -> tuple[Change, Delivery]:
    record = {**LI, "id": f"id{number:06}", **values}
    change = _change(number, version, ChangeOp.UPSERT, CODECS.record_codec("person", 1), record)
    return change, _delivery(DeliveryOp.UPSERT, fields)


def withdrawal(number: int, version: int) -> tuple[Change, Delivery]:
    return _change(number, version, ChangeOp.DELETE, None, {}), _delivery(DeliveryOp.WITHDRAW, ())


def _change(number: int, version: int, op: ChangeOp, codec: Any, record: dict[str, Any]) -> Change:
    return Change(
        dataset="person",
        key=number.to_bytes(16, "big"),
        op=op,
        reason=Reason.REMOVED if op is ChangeOp.DELETE else None,
        source_unit=SOURCE,
        incarnation=Incarnation(1, b"12345678"),
        version=version,
        source_time_us=time.time_ns() // 1000,
        publication=1,
        division="330106",
        former_divisions=(),
        cause=Cause.LIVE,
        job=None,
        policy=1,
        schema_version=1,
        record=codec.encode(record) if codec is not None else None,
    )


def _delivery(op: DeliveryOp, fields: tuple[str, ...]) -> Delivery:
    return Delivery(
        unit="",
        op=op,
        direction=Direction.HORIZONTAL,
        rule="rule",
        grants=(),
        fields=fields,
    )


def department_file(folder: Path, unit: str, database: str, **receive: Any) -> Path:
    """A department.yml that receives `person` into `people`, as JSON (which is YAML)."""
    import json

    words = {"table": "people", "columns": {n: n for n in ALL}} | receive
    path = folder / "department.yml"
    system = {"database": database, "receives": {"person": words}}
    path.write_text(json.dumps({"unit": unit, "systems": {"main": system}}), encoding="utf-8")
    return path
