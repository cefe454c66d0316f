"""Workers on a real broker: from outbox to inbox, through kills, joins and hostile bytes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from statistics import quantiles

import pytest
import stream_town as town
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic
from stream_crew import (
    Crew,
    Worker,
    check_order,
    commits_ahead,
    committed,
    learn_schemas,
    planted,
    until,
    versions_in,
)

from deptbus.connection import Connection
from deptbus.names import AGENTS, CONTRACT, QUARANTINE, data_topic, in_topic, out_topic
from deptbus.stream.log import LogReader, Outgoing, Sender, end_offsets, read_to_end
from deptbus.stream.policies import append_policy
from deptbus.wire.control import AgentReport, Marker, QuarantineNote, decode_control, encode_control

pytestmark = [pytest.mark.service, pytest.mark.timeout(180)]

DATA = data_topic("resident")


async def wait_for_count(connection: Connection, topic: str, count: int, seconds: float) -> None:
    """Until so many records lie in a topic."""
    deadline = time.monotonic() + seconds
    while sum(await end_offsets(connection, topic)) < count:
        assert time.monotonic() < deadline, f"{topic} has not got {count} records"
        await asyncio.sleep(0.1)


async def wait_until_committed(connection: Connection, topic: str, seconds: float = 60) -> None:
    """Until the workers have committed a topic to its end."""
    deadline = time.monotonic() + seconds
    while True:
        ends = await end_offsets(connection, topic)
        offsets = await asyncio.to_thread(committed, connection, topic)
        if [offsets[p] for p in range(len(ends))] == ends:
            return
        assert time.monotonic() < deadline, f"{topic} is not committed: {offsets} of {ends}"
        await asyncio.sleep(0.2)


def expected_versions(changes: list) -> dict[bytes, list[int]]:
    found: dict[bytes, list[int]] = {}
    for change in changes:
        found.setdefault(change.key, []).append(change.version)
    return found


async def notes(connection: Connection) -> list[QuarantineNote]:
    found = [decode_control(r.value) for r in await read_to_end(connection, QUARANTINE)]
    return [note for note in found if isinstance(note, QuarantineNote)]


async def test_a_change_reaches_every_entitled_inbox_and_no_other(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    crew.start().wait_ready()
    changes = town.changes_of(source, 20, 3)
    gone = source.removal("k0", 4)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing([*changes, gone]))
    await wait_for_count(bus, in_topic(town.HOUSING), 61, 30)
    expected = expected_versions([*changes, gone])
    for unit in (town.HOUSING, town.CITY_POLICE, town.TOWN_POLICE):
        check_order(await versions_in(bus, source.codecs, in_topic(unit)), expected)
    assert sum(await end_offsets(bus, in_topic(town.OTHER_POLICE))) == 0
    assert sum(await end_offsets(bus, in_topic(town.POLICE))) == 0
    out = {(r.partition, r.key, r.value) for r in await read_to_end(bus, out_topic(town.POLICE))}
    data = {(r.partition, r.key, r.value) for r in await read_to_end(bus, DATA)}
    assert data == {entry for entry in out if entry[1] is not None}  # the very bytes
    housing = source.codecs.decode_inbox(*(await read_to_end(bus, in_topic(town.HOUSING)))[0][4:])
    assert housing.fields == ("id", "name", "division")
    assert housing.policy == 1


async def test_workers_killed_in_mid_stream_lose_nothing(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    changes = town.changes_of(source, 2000, 10)
    async with Sender(bus) as sender:
        await source.announce(sender)
        publishing = asyncio.create_task(_publish(sender, source.outgoing(changes), 8.0))
        for share in (2_000, 8_000, 14_000):
            worker = await asyncio.to_thread(crew.start().wait_ready)
            await wait_for_count(bus, in_topic(town.HOUSING), share, 60)
            worker.kill()
            assert await commits_ahead(bus, source.codecs) == []
        crew.start()
        await publishing
    await wait_until_committed(bus, out_topic(town.POLICE))
    await wait_until_committed(bus, DATA)
    for unit in (town.HOUSING, town.CITY_POLICE):
        versions = await versions_in(bus, source.codecs, in_topic(unit))
        check_order(versions, expected_versions(changes))
    assert await notes(bus) == []


async def _publish(sender: Sender, records: list[Outgoing], seconds: float) -> None:
    """All records, spread over so many seconds."""
    step = 500
    for start in range(0, len(records), step):
        await sender.send(records[start : start + step])
        await asyncio.sleep(seconds * step / len(records))


async def test_workers_join_and_leave(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    changes = town.changes_of(source, 1000, 10)
    async with Sender(bus) as sender:
        await source.announce(sender)
        first = await asyncio.to_thread(crew.start().wait_ready)
        publishing = asyncio.create_task(_publish(sender, source.outgoing(changes), 6.0))
        await wait_for_count(bus, in_topic(town.HOUSING), 500, 60)
        await asyncio.to_thread(crew.start().wait_ready)  # joins
        await wait_for_count(bus, in_topic(town.HOUSING), 3_000, 60)
        assert await asyncio.to_thread(first.stop) == 0  # leaves
        await asyncio.to_thread(crew.start().wait_ready)
        await publishing
    await wait_until_committed(bus, out_topic(town.POLICE))
    await wait_until_committed(bus, DATA)
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    check_order(versions, expected_versions(changes))
    reports = [decode_control(r.value) for r in await read_to_end(bus, AGENTS)]
    last = {r.agent: r for r in reports if isinstance(r, AgentReport)}
    assert sorted(r.state for r in last.values()) == ["running", "running", "stopped"]


async def test_hostile_bytes_are_noted_and_neighbours_go_on(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    worker = crew.start()
    good = source.outgoing([source.change("good", 1)])[0]
    stranger = source.outgoing([source.change("s", 1, source_unit=town.OTHER_POLICE)])[0]
    outside = source.outgoing([source.change("o", 1, division="330105001001")])[0]
    bad = [
        b"",
        b"\x00",
        b"\x00\x00\x00\x00\x01x",
        good.value[:-1],
        good.value + b"\x00",
        b"\xff" * 99,
    ]
    async with Sender(bus) as sender:
        await source.announce(sender)
        for topic in (good.topic, DATA):
            hostile = [Outgoing(topic, good.partition, good.key, value) for value in bad]
            await sender.send([*hostile, good._replace(topic=topic), *hostile])
        wrong = (good.partition + 1) % town.PARTITIONS
        await sender.send([stranger, outside, good._replace(partition=wrong)])
    await asyncio.to_thread(worker.wait_ready)
    await wait_for_count(bus, in_topic(town.HOUSING), 2, 30)
    await wait_until_committed(bus, out_topic(town.POLICE))
    await wait_until_committed(bus, DATA)
    found = await notes(bus)
    by_place = {(n.topic, n.partition, n.offset): n for n in found}
    assert len(by_place) == 4 * len(bad) + 3
    in_data = [n for n in by_place.values() if n.topic == DATA]
    assert len(in_data) == 2 * len(bad)
    assert {n.owner for n in in_data} == {"operations"}
    reasons = {n.reason for n in by_place.values() if n.topic == good.topic}
    assert {"wrong_source_unit", "outside_territory", "wrong_partition", "malformed"} <= reasons
    assert {n.owner for n in by_place.values() if n.topic == good.topic} == {
        f"desk of {town.POLICE}"
    }
    records = await read_to_end(bus, in_topic(town.HOUSING))
    assert {r.key for r in records} == {good.key}


async def test_a_zombie_is_fenced_by_what_control_knows(bus: Connection, crew: Crew):
    """The announcement of the younger one lies below what an earlier worker has committed."""
    await town.open_town(bus)
    old, young = town.Source(), town.Source(incarnation=town.Incarnation(2, b"token--2"))
    async with Sender(bus) as sender:
        await old.announce(sender)
        await sender.send(old.outgoing([old.change("a", 1)]))
        await young.announce(sender)
        worker = await asyncio.to_thread(crew.start().wait_ready)
        await wait_until_committed(bus, out_topic(town.POLICE))
        assert await asyncio.to_thread(worker.stop) == 0
        marker = Marker("m1", "cut", town.POLICE, "main", young.incarnation, 1)
        place = old.outgoing([old.change("a", 9)])[0].partition
        late = Marker("m0", "cut", town.POLICE, "main", old.incarnation, 1)
        await sender.send(
            [
                *old.outgoing([old.change("a", 9)]),
                *young.outgoing([young.change("a", 2)]),
                *(
                    Outgoing(out_topic(town.POLICE), place, None, encode_control(m))
                    for m in (late, marker)
                ),
            ]
        )
    crew.start()
    await wait_until_committed(bus, out_topic(town.POLICE))
    await wait_until_committed(bus, DATA)
    assert [n.reason for n in await notes(bus)] == ["fenced", "fenced"]
    versions = await versions_in(bus, old.codecs, in_topic(town.HOUSING))
    assert versions == {town.key_for("a"): [1, 2]}
    keys = [r.key for r in await read_to_end(bus, DATA)]
    assert keys.count(b"marker/%s/m1" % town.POLICE.encode()) == 1
    assert not any(b"m0" in (key or b"") for key in keys)


async def test_commit_waits_for_slow_deliveries(bus: Connection, crew: Crew):
    assert await _ahead_after_a_kill(bus, crew, "slow") == []


async def test_planted_ack_before_delivery_is_caught(bus: Connection, crew: Crew):
    assert await _ahead_after_a_kill(bus, crew, "ack_before_delivery") != []


async def _ahead_after_a_kill(bus: Connection, crew: Crew, bug: str) -> list[str]:
    """Kill a worker whose deliveries take 6 s, 3 s after it has got the data: time for commits."""
    await town.open_town(bus)
    source = town.Source()
    async with Sender(bus) as sender:
        await source.announce(sender)
        worker = await asyncio.to_thread(crew.start(planted(bug)).wait_ready)
        await sender.send(source.outgoing(town.changes_of(source, 40, 1)))
    await wait_for_count(bus, DATA, 40, 30)
    await wait_until_committed(bus, out_topic(town.POLICE))
    await asyncio.sleep(2.0)  # two commit intervals; the deliveries come later
    worker.kill()
    return await commits_ahead(bus, source.codecs)


async def test_an_unexpected_error_ends_the_process_without_an_ack(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    async with Sender(bus) as sender:
        await source.announce(sender)
        worker = crew.start(planted("agent_raises"))
        await sender.send(source.outgoing([source.change("a", 1)]))
    assert await asyncio.to_thread(worker.process.wait, 60) == 70
    assert "RuntimeError" in worker.log
    assert sum(committed(bus, DATA).values()) == 0
    crew.start()
    await wait_until_committed(bus, DATA)
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    assert {key: set(found) for key, found in versions.items()} == {town.key_for("a"): {1}}


async def test_a_stopped_worker_that_wakes_loses_nothing(bus: Connection, crew: Crew):
    """It slept beyond its session: another one has its partitions, and its own are taken back."""
    await town.open_town(bus)
    source = town.Source()
    changes = town.changes_of(source, 500, 10)
    first = await asyncio.to_thread(crew.start().wait_ready)
    async with Sender(bus) as sender:
        await source.announce(sender)
        publishing = asyncio.create_task(_publish(sender, source.outgoing(changes), 10.0))
        await wait_for_count(bus, in_topic(town.HOUSING), 500, 60)
        await asyncio.to_thread(crew.start().wait_ready)
        first.process.send_signal(signal.SIGSTOP)
        await publishing
        await wait_until_committed(bus, DATA)
        first.process.send_signal(signal.SIGCONT)
        await sender.send(source.outgoing([source.change("k0", 11)]))
    changes.append(source.change("k0", 11))
    await wait_until_committed(bus, out_topic(town.POLICE))
    await wait_until_committed(bus, DATA)
    assert await asyncio.to_thread(first.stop) == 0
    versions = await versions_in(bus, source.codecs, in_topic(town.HOUSING))
    wanted = {key: set(found) for key, found in expected_versions(changes).items()}
    assert {key: set(found) for key, found in versions.items()} == wanted


async def test_a_new_policy_takes_effect_without_a_restart_and_is_reported(
    bus: Connection, crew: Crew
):
    await town.open_town(bus)
    source = town.Source()
    worker = await asyncio.to_thread(crew.start().wait_ready)
    narrower = town.contract(housing_fields=("id", "name"))
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing([source.change("a", 1)]))
        await wait_for_count(bus, in_topic(town.HOUSING), 1, 30)
        await append_policy(bus, town.policy(2, narrower))
        # It names policy 2: the worker must have read it before it routes this.
        await sender.send(source.outgoing([source.change("a", 2, policy=2)]))
        await sender.send(source.outgoing([source.change("a", 3, policy=3)]))
        await wait_until_committed(bus, out_topic(town.POLICE))
        await wait_until_committed(bus, DATA)
    records = await read_to_end(bus, in_topic(town.HOUSING))
    await learn_schemas(bus, source.codecs)
    found = [source.codecs.decode_inbox(r.key, r.value) for r in records]
    assert [(f.policy, f.version, f.fields) for f in found] == [
        (1, 1, ("id", "name", "division")),
        (2, 2, ("id", "name")),
    ]
    assert len(records) == 2
    assert [n.reason for n in await notes(bus)] == ["unknown_policy"]
    reports = [decode_control(r.value) for r in await read_to_end(bus, AGENTS)]
    assert reports[-1].policy == 2
    assert worker.process.poll() is None


async def test_other_topics_end_the_worker_with_code_3(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    worker = await asyncio.to_thread(crew.start().wait_ready)
    more = town.contract(units=(*town.UNITS, "housing@330105"))
    town.add_topics(bus, more)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing(town.changes_of(source, 100, 5)))
        await append_policy(bus, town.policy(2, more))
    assert await asyncio.to_thread(worker.process.wait, 30) == 3
    assert await commits_ahead(bus, source.codecs) == []
    crew.start()
    await wait_until_committed(bus, out_topic(town.POLICE))
    await wait_until_committed(bus, DATA)
    assert sum(await end_offsets(bus, in_topic(town.HOUSING))) >= 500


async def test_nothing_is_delivered_while_the_contract_cannot_be_read(bus: Connection, crew: Crew):
    await town.open_town(bus)
    source = town.Source()
    worker = await asyncio.to_thread(crew.start().wait_ready)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing([source.change("a", 1)]))
        await wait_for_count(bus, in_topic(town.HOUSING), 1, 30)
        admin = AdminClient(bus.librdkafka())
        admin.delete_topics([CONTRACT])[CONTRACT].result(30)
        await asyncio.to_thread(until, lambda: "topic_unreadable" in worker.log, 30)
        await asyncio.sleep(11.0)  # the lease
        await sender.send(source.outgoing([source.change("a", 2)]))
        await asyncio.to_thread(until, lambda: "partition_stopped" in worker.log, 30)
    assert sum(await end_offsets(bus, in_topic(town.HOUSING))) == 1
    assert sum(await end_offsets(bus, DATA)) == 1
    assert worker.stop() == 0
    assert await commits_ahead(bus, source.codecs) == []


async def test_nothing_is_delivered_behind_a_contract_made_again_until_the_next_number(
    bus: Connection, crew: Crew
) -> None:
    await town.open_town(bus)
    source = town.Source()
    worker = await asyncio.to_thread(crew.start().wait_ready)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing([source.change("a", 1)]))
        await wait_for_count(bus, in_topic(town.HOUSING), 1, 30)
        await asyncio.to_thread(make_again, bus, CONTRACT, 1)
        await asyncio.to_thread(until, lambda: "contract_made_again" in worker.log, 30)
        await sender.send(source.outgoing([source.change("a", 2)]))
        await asyncio.to_thread(until, lambda: "partition_stopped" in worker.log, 30)
        assert sum(await end_offsets(bus, in_topic(town.HOUSING))) == 1
        await append_policy(bus, town.policy(2))
        await wait_for_count(bus, in_topic(town.HOUSING), 2, 30)
    assert worker.stop() == 0
    await learn_schemas(bus, source.codecs)
    records = await read_to_end(bus, in_topic(town.HOUSING))
    assert [source.codecs.decode_inbox(r.key, r.value).policy for r in records] == [1, 2]
    assert worker.log.count("contract_made_again") == 1


async def test_faust_worker_runs_the_agents_from_the_root(
    bus: Connection, crew: Crew, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
):
    await town.open_town(bus)
    source = town.Source()
    monkeypatch.chdir(pytestconfig.rootpath)
    faust = os.path.join(os.path.dirname(__import__("sys").executable), "faust")
    worker = crew.start([faust, "-A", "agents", "worker"])
    await asyncio.to_thread(worker.wait_ready)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing(town.changes_of(source, 10, 2)))
    await wait_for_count(bus, in_topic(town.HOUSING), 20, 30)
    assert worker.stop() == 0


async def test_latency_from_outbox_to_inbox(
    bus: Connection, crew: Crew, record_property, capsys: pytest.CaptureFixture[str]
):
    """50 changes a second, one at a time. The bound is loose; a stall would not hide in it."""
    await town.open_town(bus)
    source = town.Source()
    await asyncio.to_thread(crew.start().wait_ready)
    sent: dict[bytes, float] = {}
    latencies: list[float] = []
    async with Sender(bus) as sender, LogReader(bus, in_topic(town.HOUSING)) as inbox:
        await source.announce(sender)

        async def receive() -> None:
            while len(latencies) < 300:
                records = await inbox.poll(1.0)
                now = time.perf_counter()
                latencies.extend(now - sent[record.key] for record in records)

        receiving = asyncio.create_task(receive())
        for number in range(300):
            record = source.outgoing([source.change(f"k{number}", 1)])
            sent[record[0].key] = time.perf_counter()
            await sender.send(record)
            await asyncio.sleep(0.02)
        await asyncio.wait_for(receiving, 30)
    cuts = quantiles((s * 1000 for s in latencies[50:]), n=100)
    record_property("latency_ms", {"p50": cuts[49], "p99": cuts[98]})
    with capsys.disabled():
        print(f"\nout -> in: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms")
    assert cuts[49] < 100


def make_again(connection: Connection, topic: str, partitions: int = town.PARTITIONS) -> None:
    """Deleted by mistake, and made again as it was."""
    admin = AdminClient(connection.librdkafka())
    admin.delete_topics([topic], operation_timeout=30)[topic].result(30)
    deadline = time.monotonic() + 30
    while True:
        try:
            admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
            return
        except KafkaException:  # marked for deletion still
            assert time.monotonic() < deadline
            time.sleep(0.1)


async def made_again_under(
    bus: Connection, crew: Crew, kind: str, argv: list[str] | None = None
) -> Worker:
    """A topic is made again under a worker, and all that was written last has to be in the
    canonical topic; returns the worker."""
    await town.open_town(bus)
    source = town.Source()
    first = town.changes_of(source, 50, 2)
    async with Sender(bus) as sender:
        await source.announce(sender)
        await sender.send(source.outgoing(first))
        worker = await asyncio.to_thread(crew.start(argv).wait_ready)
        await wait_until_committed(bus, out_topic(town.POLICE))
        await wait_until_committed(bus, DATA)
        topic = out_topic(town.POLICE) if kind == "out" else DATA
        # The worker stands still, or sees the topic while it is empty: then even one that trusts
        # its old position is told that there is no such place, and begins anew.
        worker.process.send_signal(signal.SIGSTOP)
        await asyncio.to_thread(make_again, bus, topic)
        if kind == "out":
            # More than there were: the old positions lie in the midst of it.
            await source.announce(sender)
            second = [source.change(f"new{n}", v) for v in (1, 2, 3, 4) for n in range(50)]
            expected = expected_versions(second)
        else:
            second = [c for c in town.changes_of(source, 50, 4) if c.version > 2]
            expected = expected_versions([*first, *second])
        await sender.send(source.outgoing(second))
        worker.process.send_signal(signal.SIGCONT)
    if argv is None:
        await asyncio.to_thread(worker.process.wait, 30)
        await asyncio.to_thread(crew.start().wait_ready)
    seconds = 60 if argv is None else 8
    await wait_until_committed(bus, out_topic(town.POLICE), seconds)
    await wait_until_committed(bus, DATA, seconds)
    arrived = await versions_in(bus, source.codecs, DATA)
    found = {key: sorted(set(versions)) for key, versions in arrived.items() if key in expected}
    assert found == expected
    return worker


@pytest.mark.parametrize("kind", ["out", "data"])
async def test_a_topic_made_again_is_read_from_its_beginning(
    bus: Connection, crew: Crew, kind: str
) -> None:
    """The committed offset would skip as many records of the new topic; and what a canonical topic
    lost lies in the outbox still."""
    worker = await made_again_under(bus, crew, kind)
    assert worker.process.returncode == 3, worker.log  # start me again
    assert worker.log.count("topic_made_again") == 1, worker.log


@pytest.mark.parametrize("kind", ["out", "data"])
async def test_planted_trust_in_offsets_of_another_topic_is_caught(
    bus: Connection, crew: Crew, kind: str
) -> None:
    with pytest.raises(AssertionError, match=r"is not committed|=="):
        await made_again_under(bus, crew, kind, planted("trusts_offsets"))
