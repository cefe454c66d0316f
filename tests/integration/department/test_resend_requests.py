"""A system that only publishes hears what it is asked to send again, and does it once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from fault_desks import SourceDesk, running, until
from source_world import PLACES

from deptbus.change import Cause, Change
from deptbus.connection import Connection
from deptbus.department import requests
from deptbus.names import in_topic, out_topic
from deptbus.stream.log import Outgoing, Sender, read_to_end
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import ResendRequest, encode_control
from deptbus.wire.partitioner import partition_of

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]


async def changes(desk: SourceDesk) -> list[Change]:
    codecs = Codecs(desk.contract)
    records = await read_to_end(desk.bus, out_topic(desk.unit))
    found = [codecs.decode_out(r.key, r.value) for r in records]
    return [change for change in found if isinstance(change, Change)]


async def resent(desk: SourceDesk) -> int:
    return sum(change.cause is Cause.RESEND for change in await changes(desk))


async def ask(desk: SourceDesk, key: bytes | None, dataset: str = "person") -> None:
    request = ResendRequest(uuid.uuid4().hex, dataset, key, "test")
    partition = 0 if key is None else partition_of(key, 4)
    async with Sender(desk.bus) as sender:
        await sender.send([Outgoing(in_topic(desk.unit), partition, None, encode_control(request))])


async def opened(broker: Connection, folder: Path) -> SourceDesk:
    desk = await SourceDesk(broker, folder).open()
    insert = "INSERT INTO people (身份证, area, 姓名, sex) VALUES ('{:018}', '{}', 'a', 1)"
    await desk.sql(*(insert.format(n, PLACES[0]) for n in range(3)))
    return desk


async def _asked_twice(
    desk: SourceDesk, monkeypatch: pytest.MonkeyPatch, *, forgets: bool = False
) -> int:
    """How often a key is sent again that was asked for once in each of two lives of the adapter,
    and once with all others."""
    commit, read = requests.LagCommitter.commit, dict[int, int]()

    async def noted(self: Any, topic: str, offsets: Mapping[int, int]) -> None:
        if not forgets:
            await commit(self, topic, offsets)
        read.update(offsets)

    monkeypatch.setattr(requests.LagCommitter, "commit", noted)
    async with running(desk.bus, [desk]):
        await until(desk.is_published, "the first rows")
        first = (await changes(desk))[0]
        await ask(desk, first.key, "another")  # of a dataset that is not its own
        await ask(desk, first.key)
        await until(lambda: _are_resent(desk, 1), "it is sent again")
        place = partition_of(first.key, 4)
        await until(lambda: read.get(place, 0) >= 2, "how far it has read is committed")
    async with running(desk.bus, [desk]):
        await ask(desk, first.key)
        await until(lambda: _are_resent(desk, 2), "it is sent again by the next adapter")
        # Behind it in the same partition: whatever was read twice has come by then.
        await ask(desk, None)
        await until(lambda: _all_resent(desk), "all are sent again")
    last = [c for c in await changes(desk) if c.key == first.key]
    assert [c.version for c in last] == sorted({c.version for c in last})
    return sum(c.cause is Cause.RESEND for c in last)


async def _are_resent(desk: SourceDesk, count: int) -> bool:
    return await resent(desk) >= count


async def _all_resent(desk: SourceDesk) -> bool:
    found = await changes(desk)
    return {c.key for c in found} == {c.key for c in found if c.cause is Cause.RESEND}


async def test_a_system_that_only_publishes_is_asked_for_a_key_and_for_all(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _asked_twice(await opened(broker, tmp_path), monkeypatch) == 3


async def test_planted_reading_from_the_beginning_each_time_is_caught(
    broker: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await _asked_twice(await opened(broker, tmp_path), monkeypatch, forgets=True) > 3


async def test_what_it_is_asked_in_an_inbox_that_was_made_again_is_heard(
    broker: Connection, tmp_path: Path
) -> None:
    """It stands behind a record of the inbox before; the new one's first record is a request."""
    desk = await opened(broker, tmp_path)
    async with running(desk.bus, [desk]):
        await until(desk.is_published, "the first rows")
        first = (await changes(desk))[0]
        await ask(desk, first.key)
        await until(lambda: _are_resent(desk, 1), "it is sent again")
        await _make_inbox_again(desk)
        await ask(desk, first.key)
        await until(lambda: _are_resent(desk, 2), "it is sent again, as the new inbox says")


async def _make_inbox_again(desk: SourceDesk) -> None:
    admin, topic = AdminClient(desk.bus.librdkafka()), in_topic(desk.unit)
    deleted = admin.delete_topics([topic], operation_timeout=30)[topic]
    await asyncio.to_thread(deleted.result, 30)

    async def is_made() -> bool:
        made = admin.create_topics([NewTopic(topic, 4, 1)])[topic]
        try:
            await asyncio.to_thread(made.result, 30)
        except KafkaException:
            return False  # marked for deletion still
        return True

    await until(is_made, "the inbox is made again")
