"""Promises of datasets: each rule, what is read back of outboxes, and what the command says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime, time
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition
from wire_samples import SENDER, SOURCE, VALUES, change, contract

from benchmarks.simulated_cluster import Log, SimulatedCluster
from deptbus.change import Cause
from deptbus.contract.model import Contract, Unit
from deptbus.contract.opening import CHINA, Opening
from deptbus.errors import Exit
from deptbus.names import out_topic
from deptbus.operations import freshness as module
from deptbus.operations import refreshes
from deptbus.operations.freshness import NEVER_CAME, Fresh, Freshness, Refresh, freshness
from deptbus.operations.freshness_report import (
    freshness_document,
    freshness_exit_code,
    freshness_rows,
)
from deptbus.operations.offsets import Offsets
from deptbus.operations.refreshes import last_refreshes
from deptbus.operations.verdicts import Reader
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Announcement, encode_control

NOW = 1_800_000_000.0
HOUR, DAY = 3600.0, 86_400.0
ALIVE, GONE, UNKNOWN = Reader.ALIVE, Reader.GONE, Reader.UNKNOWN
OTHER = "public_security@330105"

ROWS = {
    "1 within the promise": (Refresh(NOW - HOUR), ALIVE, Fresh.FRESH),
    "1 within the promise, and the adapter is gone": (Refresh(NOW - HOUR), GONE, Fresh.FRESH),
    "1 at its very end": (Refresh(NOW - DAY), ALIVE, Fresh.FRESH),
    "1 by a clock that is ahead": (Refresh(NOW + HOUR), ALIVE, Fresh.FRESH),
    "2 nothing is known": (Refresh(), GONE, None),
    "3 not after a time within the promise": (Refresh(not_after=NOW - HOUR), ALIVE, None),
    "4 over, and gone": (Refresh(NOW - 2 * DAY), GONE, Fresh.SILENT),
    "4 never, and gone": (Refresh(not_after=NEVER_CAME), GONE, Fresh.SILENT),
    "4 not after, over, and gone": (Refresh(not_after=NOW - 2 * DAY), GONE, Fresh.SILENT),
    "5 over": (Refresh(NOW - 2 * DAY), ALIVE, Fresh.LATE),
    "5 over, and nobody knows whether it lives": (Refresh(NOW - 2 * DAY), UNKNOWN, Fresh.LATE),
    "5 never": (Refresh(not_after=NEVER_CAME), ALIVE, Fresh.LATE),
    "5 not after, over": (Refresh(not_after=NOW - 2 * DAY), ALIVE, Fresh.LATE),
}


@pytest.mark.parametrize("row", ROWS)
def test_each_rule(row):
    refresh, reader, state = ROWS[row]
    assert freshness(refresh, DAY, reader, NOW).state == state


def test_every_rule_has_a_row():
    doc = (module.__doc__ or "").splitlines()
    assert {line[0] for line in doc if line[:1].isdigit()} == {row[0] for row in ROWS}


NIGHT = Opening((time(9), time(17)))
EVENING = datetime(2026, 11, 25, 20, tzinfo=CHINA).timestamp()


@pytest.mark.parametrize(
    ("last_hours_ago", "promise_hours", "state"),
    [
        (4, 12, Fresh.FRESH),  # at night, and the promise is not over
        (13, 12, Fresh.CLOSED),  # it was over at 19:00: due when tomorrow's service ends
        (36, 30, Fresh.LATE),  # it was over at 14:00, while somebody worked
    ],
)
def test_a_bureau_that_is_closed_is_not_late(last_hours_ago, promise_hours, state):
    refresh = Refresh(EVENING - last_hours_ago * HOUR)
    assert freshness(refresh, promise_hours * HOUR, ALIVE, EVENING, NIGHT).state is state


def test_when_it_was_due():
    assert freshness(Refresh(NOW - 2 * DAY), DAY, ALIVE, NOW) == Freshness(
        Fresh.LATE, NOW - 2 * DAY, NOW - DAY
    )
    assert freshness(Refresh(not_after=NEVER_CAME), DAY, ALIVE, NOW).due is None


# --- reading outboxes back -----------------------------------------------------------------


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


class Consumer:
    """Reads logs that lie in memory; counts what it had to give."""

    def __init__(self, cluster: SimulatedCluster, logs: dict[TopicPartition, list[Record]]) -> None:
        self._client, self._logs = cluster, logs
        self._at: dict[TopicPartition, int] = {}
        self.given = 0

    def assign(self, places: Iterable[TopicPartition]) -> None:
        self._at = dict.fromkeys(places, 0)

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._at[place] = offset

    def pause(self, place: TopicPartition) -> None: ...

    async def position(self, place: TopicPartition) -> int:
        return self._at[place]

    async def getmany(self, *places: TopicPartition, **_: Any) -> dict[Any, list[Record]]:
        found = {}
        for place in places:
            some = [r for r in self._logs[place] if r.offset >= self._at[place]][:50]
            if some:
                found[place] = some
                self._at[place] = some[-1].offset + 1
                self.given += len(some)
        return found

    async def stop(self) -> None: ...


class World:
    """Two police units that publish `person`, one partition each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, freshness_hours: float = 24) -> None:
        small = contract()
        dataset = small.datasets["person"].model_copy(update={"freshness_hours": freshness_hours})
        units = tuple(
            Unit(unit=unit, title=unit, title_zh=unit, owner=f"office of {unit}")
            for unit in (SOURCE, OTHER)
        )
        territories = small.territories | {"330105": "拱墅区"}
        self.contract: Contract = small.model_copy(
            update={"datasets": {"person": dataset}, "units": units, "territories": territories}
        )
        self.codecs = Codecs(self.contract)
        self.logs: dict[TopicPartition, list[Record]] = {
            TopicPartition(out_topic(unit), 0): [] for unit in (SOURCE, OTHER)
        }
        self.starts = dict.fromkeys(self.logs, 0)
        self.canonical: list[Record] = []
        self.cluster = SimulatedCluster()

        async def open_consumer(_: object) -> Consumer:
            self.consumer = Consumer(self.cluster, self.logs)
            return self.consumer

        async def scan(_: object, topic: str) -> AsyncIterator[list[Record]]:
            assert topic == "data.person"
            yield self.canonical

        monkeypatch.setattr(refreshes, "open_consumer", open_consumer)
        monkeypatch.setattr(refreshes, "scan_to_end", scan)

    def publish(self, unit: str, ago: float, cause: Cause = Cause.LIVE, times: int = 1) -> None:
        log = self.logs[TopicPartition(out_topic(unit), 0)]
        for _ in range(times):
            log.append(self._record(len(log), unit, ago, cause))

    def keep(self, unit: str, ago: float, cause: Cause = Cause.LIVE) -> None:
        self.canonical.append(self._record(len(self.canonical), unit, ago, cause))

    def announce(self, unit: str, ago: float) -> None:
        log = self.logs[TopicPartition(out_topic(unit), 0)]
        at_us = int((NOW - ago) * 1e6)
        value = encode_control(Announcement(unit, "main", SENDER, 0, at_us))
        log.append(Record(len(log), at_us // 1000, None, value))

    def forget(self, unit: str, count: int) -> None:
        """Retention takes the first records."""
        place = TopicPartition(out_topic(unit), 0)
        self.starts[place] = count
        self.logs[place] = [r for r in self.logs[place] if r.offset >= count]

    def _record(self, offset: int, unit: str, ago: float, cause: Cause) -> Record:
        at_us = int((NOW - ago) * 1e6)
        record = self.codecs.record_codec("person", 1).encode(VALUES)
        made = change(record, source_unit=unit, source_time_us=at_us, cause=cause)
        return Record(offset, at_us // 1000, made.key, self.codecs.encode_change(made))

    async def look(self, unit: str = SOURCE) -> Refresh:
        self.cluster.logs = {
            place.topic: [
                Log(self.starts[place], records[-1].offset + 1 if records else self.starts[place])
            ]
            for place, records in self.logs.items()
        }
        client: Any = self.cluster
        cluster = await Offsets(client).cluster()
        found = await last_refreshes(None, self.contract, cluster, NOW)  # type: ignore[arg-type]
        return found[unit, "person"]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_the_last_change_counts(world):
    for ago in (30 * HOUR, 5 * HOUR, 3 * HOUR):
        world.publish(SOURCE, ago)
    assert (await world.look()).at == pytest.approx(NOW - 3 * HOUR)


async def test_what_was_sent_again_because_somebody_asked_is_no_refresh(world):
    world.publish(SOURCE, 30 * HOUR, Cause.SNAPSHOT)
    world.publish(SOURCE, HOUR, Cause.RESEND, times=300)
    world.announce(SOURCE, 0)
    assert (await world.look()).at == pytest.approx(NOW - 30 * HOUR)


async def test_a_unit_that_never_published_anything(world):
    world.publish(OTHER, HOUR)
    assert await world.look(SOURCE) == Refresh(not_after=NEVER_CAME)
    assert (await world.look(OTHER)).at == pytest.approx(NOW - HOUR)


async def test_a_busy_outbox_is_not_read_to_its_beginning(world):
    world.publish(SOURCE, 2 * HOUR, times=5000)
    world.publish(SOURCE, HOUR)
    assert (await world.look()).at == pytest.approx(NOW - HOUR)
    assert world.consumer.given <= 128


async def test_it_is_not_read_further_back_than_the_promise(world):
    world.publish(SOURCE, 90 * DAY, times=20_000)
    world.publish(SOURCE, 40 * HOUR, Cause.RESEND, times=500)
    refresh = await world.look()
    assert refresh.at is None
    assert refresh.not_after == pytest.approx(NOW - 40 * HOUR)
    assert world.consumer.given < 2_000
    assert freshness(refresh, DAY, ALIVE, NOW).state is Fresh.LATE


async def test_a_promise_longer_than_the_retention_is_looked_for_in_the_canonical_topic(
    monkeypatch,
):
    world = World(monkeypatch, freshness_hours=720)
    world.publish(SOURCE, 500 * HOUR, times=10)
    world.announce(SOURCE, 300 * HOUR)
    world.forget(SOURCE, 10)
    world.keep(SOURCE, 600 * HOUR)
    world.keep(SOURCE, 500 * HOUR)
    world.keep(OTHER, HOUR)
    assert (await world.look()).at == pytest.approx(NOW - 500 * HOUR)
    world.keep(SOURCE, 100 * HOUR, Cause.RESEND)  # in the place of what it sent again
    assert await world.look() == Refresh(not_after=pytest.approx(NOW - 100 * HOUR))


async def test_all_of_an_outbox_gone_by_retention(monkeypatch):
    world = World(monkeypatch, freshness_hours=24)
    world.publish(SOURCE, 500 * HOUR, times=10)
    world.forget(SOURCE, 10)
    world.keep(SOURCE, 500 * HOUR)
    assert (await world.look()).at == pytest.approx(NOW - 500 * HOUR)


async def test_an_outbox_that_cannot_be_read_is_not_silent(world):
    world.publish(SOURCE, HOUR)
    await world.look()
    world.cluster.logs[out_topic(SOURCE)][0].error = 6

    client: Any = world.cluster
    cluster = await Offsets(client).cluster()
    found = await last_refreshes(None, world.contract, cluster, NOW)  # type: ignore[arg-type]
    assert found[SOURCE, "person"] == Refresh()
    assert freshness(found[SOURCE, "person"], DAY, GONE, NOW).state is None


async def test_the_document(world):
    world.publish(SOURCE, HOUR)
    world.publish(OTHER, 2 * DAY)
    told = {(unit, "person"): await world.look(unit) for unit in (SOURCE, OTHER)}
    rows = freshness_rows(world.contract, told, {SOURCE: ALIVE, OTHER: GONE}, NOW)
    assert freshness_exit_code(rows) is Exit.ANSWER_IS_NO
    assert freshness_exit_code(rows[:1]) is Exit.DONE
    document = freshness_document(rows, NOW, only_bad=True)
    (row,) = document["datasets"]
    assert "deptbus department run" in row.pop("advice")
    assert row == {
        "unit": OTHER,
        "dataset": "person",
        "state": "silent",
        "last_refresh": "2027-01-13T08:00:00Z",
        "promise_hours": 24,
        "due": "2027-01-14T08:00:00Z",
        "owner": f"office of {OTHER}",
    }
    unknown = freshness_rows(
        world.contract,
        dict.fromkeys(told, Refresh()),
        {SOURCE: ALIVE, OTHER: ALIVE},
        NOW,
    )
    assert freshness_exit_code(unknown) is Exit.COULD_NOT
