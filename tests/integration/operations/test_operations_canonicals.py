"""A canonical topic that was deleted and made again: its sources are asked, once, for all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from fault_desks import SourceDesk, running
from office_bus import SOURCE, Bus, contract, make_again, requests_at, until
from source_bus import BusSource
from source_world import PLACES
from structlog.testing import capture_logs

from deptbus.change import ChangeOp
from deptbus.contract.model import Policy
from deptbus.names import JOBS, data_topic, in_topic, out_topic
from deptbus.operations import canonicals
from deptbus.stream.log import end_offsets, read_to_end
from deptbus.stream.policies import append_policy
from deptbus.wire.control import TopicNoted, decode_control

pytestmark = [pytest.mark.service, pytest.mark.timeout(120)]

TOPIC = data_topic("person")


async def noted(bus: Bus) -> list[str]:
    """The ids of the canonical topic that were noted, in their order."""
    found = [decode_control(r.value) for r in await read_to_end(bus.connection, JOBS)]
    return [n.topic_id for n in found if isinstance(n, TopicNoted) and n.topic == TOPIC]


def told(logs: list) -> list[str]:
    return [line["topic"] for line in logs if line["event"] == "canonical_topic_made_again"]


async def _is_noted(bus: Bus, count: int) -> bool:
    return len(await noted(bus)) == count


@pytest.mark.parametrize("office_sees_it", [True, False])
async def test_a_canonical_topic_made_again_asks_its_source_once(
    new_bus: Callable[[], Bus], office_sees_it: bool
) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        async with bus.office():
            await until(lambda: _is_noted(bus, 1), "its id is noted")
            if office_sees_it:
                await make_again(bus, TOPIC)
                await until(lambda: _is_noted(bus, 2), "its new id is noted")
        if not office_sees_it:
            await make_again(bus, TOPIC)
        with capture_logs() as logs:
            async with bus.office() as office:
                await until(lambda: _is_noted(bus, 2), "its new id is noted")
                await office.jobs.refresh()
                (request,) = await requests_at(bus)
                assert (request.dataset, request.key) == ("person", None)
                assert request.request.endswith(office.jobs.topic_ids[TOPIC])
        assert told(logs) == ([] if office_sees_it else [TOPIC])


async def test_killed_between_request_and_note_it_asks_again(
    new_bus: Callable[[], Bus], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        async with bus.office():
            await until(lambda: _is_noted(bus, 1), "its id is noted")
        await make_again(bus, TOPIC)

        class Killed(Exception):
            pass

        async def dies(*_: object) -> None:
            raise Killed

        with monkeypatch.context() as patched, suppress(ExceptionGroup):
            patched.setattr(canonicals, "note_topic", dies)
            async with bus.office():
                await until(lambda: requests_at(bus), "it is asked for")
        assert len(await requests_at(bus)) == 1
        assert await _is_noted(bus, 1)
        async with bus.office():
            await until(lambda: _is_noted(bus, 2), "its new id is noted")
        first, again = await requests_at(bus)
        assert first == again  # so an adapter goes on with the same snapshot


async def test_a_source_without_an_inbox_is_asked_when_it_has_one(
    new_bus: Callable[[], Bus],
) -> None:
    async with new_bus() as bus:
        await bus.activate(contract())
        async with bus.office():
            await until(lambda: _is_noted(bus, 1), "its id is noted")
            admin = AdminClient(bus.connection.librdkafka())
            inbox = in_topic(SOURCE)
            deleted = admin.delete_topics([inbox], operation_timeout=30)[inbox]
            await asyncio.to_thread(deleted.result, 30)
            with capture_logs() as logs:
                await make_again(bus, TOPIC)
                await until(lambda: told(logs), "it is told")
            assert await _is_noted(bus, 1)
            bus.make_topics(contract())
            await until(lambda: _is_noted(bus, 2), "its new id is noted")
        # Once more for the inbox itself, which was made again too.
        asked = [r for r in await requests_at(bus) if r.request.startswith(TOPIC)]
        assert len(asked) == 1


async def loses_what_retention_took(bus: Bus, folder: Path) -> None:
    """Raises AssertionError when the canonical topic does not come to hold what its source has."""
    desk = await SourceDesk(bus.connection, folder).open()
    agreed = desk.contract.model_copy(update={"partitions": 4})
    side = BusSource(bus.connection, "")
    side.unit, side.contract = desk.unit, agreed
    now = datetime.now(UTC)
    policy = Policy(number=1, activated_at=now, activated_by="test", contract=agreed)
    await append_policy(bus.connection, policy)
    insert = "INSERT INTO people (身份证, area, 姓名, sex) VALUES ('{:018}', '{}', 'n{}', 1)"
    await desk.sql(*(insert.format(n, PLACES[0], n) for n in range(5)))

    async def arrived(seconds: float) -> None:
        wanted = await desk.table()

        async def has_come() -> bool:
            return side.named(await side.canonical()) == wanted

        await until(has_come, "the canonical topic holds what its source has", seconds)

    async with running(bus.connection, [desk]), side.intake(), bus.office():
        await arrived(30)
        await desk.sql(f"DELETE FROM people WHERE 身份证 = '{4:018}'")
        await arrived(30)
        await until(lambda: _is_noted(bus, 1), "its id is noted")
        await retention_takes_all(bus, desk.unit)
        await make_again(bus, TOPIC)
        await arrived(15)
        # What was deleted long ago is not told again: nobody has it.
        last = await side.canonical()
        assert {change.op for change in last} == {ChangeOp.UPSERT}


async def retention_takes_all(bus: Bus, unit: str) -> None:
    topic = out_topic(unit)
    ends = await end_offsets(bus.connection, topic)
    admin = AdminClient(bus.connection.librdkafka())
    for taken in admin.delete_records(
        [TopicPartition(topic, p, end) for p, end in enumerate(ends)]
    ).values():
        await asyncio.to_thread(taken.result, 30)


async def test_rows_older_than_the_outbox_come_again(
    new_bus: Callable[[], Bus], tmp_path: Path
) -> None:
    async with new_bus() as bus:
        await loses_what_retention_took(bus, tmp_path)


async def test_planted_silence_towards_sources_is_caught(
    new_bus: Callable[[], Bus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(canonicals, "request_all", nothing)
    async with new_bus() as bus:
        with pytest.raises(AssertionError, match="holds what its source has"):
            await loses_what_retention_took(bus, tmp_path)
