"""The desk without a bus: what it tells then, and what a later notice does to one on its way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from deptbus.connection import Connection
from deptbus.contract.model import Duty
from deptbus.errors import BusRefused
from deptbus.operations import alarm_desk
from deptbus.operations.alarm_desk import AlarmDesk, Place
from deptbus.operations.alarm_settings import AlarmSettings, Way
from deptbus.operations.alarms import Finding, Look
from deptbus.operations.findings import About, Found
from deptbus.operations.notify import NotDelivered

NOW = 1_800_000_000.0
HOUSING = "lag/housing@330106/apply"
CLUSTER = "cluster/bus"
NOWHERE = Connection(bootstrap="127.0.0.1:1")


class Clock:
    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> float:
        return self.at


class Receiver:
    """Stands in for every way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.got: list[tuple[str, str, str]] = []
        self.documents: list[dict[str, object]] = []
        self.fails: set[str] = set()
        monkeypatch.setattr(alarm_desk, "deliver", self.deliver)
        monkeypatch.setattr(alarm_desk, "_BACKOFF_SECONDS", (0.01, 0.05))

    async def deliver(self, way: Way, content: str) -> None:
        if way.name in self.fails:
            raise NotDelivered("it answered 503")
        said = json.loads(content)
        self.documents.append(said)
        self.got.append((way.name, said["kind"], said["word"]))


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Receiver:
    return Receiver(monkeypatch)


def settings(*names: str) -> AlarmSettings:
    ways = tuple(Way(name=name, command=("x",)) for name in names)
    return AlarmSettings(raise_after_seconds=0, over_after_seconds=0, ways=ways)


@asynccontextmanager
async def running(desk: AlarmDesk) -> AsyncIterator[AlarmDesk]:
    task = asyncio.create_task(desk.run())
    try:
        yield desk
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def found(**severities: int | None) -> Found:
    subjects = {"housing": HOUSING, "cluster": CLUSTER}
    findings = [Finding(subjects[n], s, f"word{s}") for n, s in severities.items()]
    duty = Duty(name="值班室", phone="8101")
    about = About("housing@330106", "房产管理科", duty, "Start it", "docs/x#stopped", "apply")
    return Found(
        Look(tuple(findings), frozenset({"lag", "cluster"})), {f.subject: about for f in findings}
    )


async def test_away_from_the_bus_only_that_is_news(receiver: Receiver) -> None:
    """What was told of the others before nobody knows yet: telling it might be once more."""
    async with running(AlarmDesk(NOWHERE, settings("duty"), Clock())) as desk:
        await desk.take(found(housing=6, cluster=8))
        await until(lambda: receiver.got)
        await desk.take(found(housing=6, cluster=8))
    assert receiver.got == [("duty", "raised", "word8")]
    assert desk._place is Place.NOT_KNOWN
    assert desk._unkept == {CLUSTER}  # it goes to the bus when that is back


@pytest.fixture
def keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that has no place for alarms."""

    async def refuse(_: object) -> None:
        raise BusRefused("there is no topic bus.alarms")

    monkeypatch.setattr(alarm_desk.AlarmsBoard, "start", refuse)


async def on_a_strangers_cluster(desk: AlarmDesk) -> None:
    await until(lambda: desk._place is Place.KEEPS_NONE)


@pytest.mark.usefixtures("keeps_none")
async def test_a_cluster_that_keeps_no_alarms_has_them_as_long_as_we_live(
    receiver: Receiver,
) -> None:
    async with running(AlarmDesk(NOWHERE, settings("duty"), Clock())) as desk:
        await on_a_strangers_cluster(desk)
        for severity in (6, 6, 0, 0):
            await desk.take(found(housing=severity))
            await until(lambda: not desk.pending()["duty"])
    assert receiver.got == [("duty", "raised", "word6"), ("duty", "over", "word0")]
    raised, over = receiver.documents
    assert raised["text"] == ("housing@330106 apply: word6; ring 房产管理科, 值班室 8101. Start it")
    assert over["owner"] == "房产管理科"
    assert (raised["alarm"], raised["notice"], over["notice"]) == (over["alarm"], 1, 2)


@pytest.mark.usefixtures("keeps_none")
async def test_each_way_gets_each_notice_whatever_the_others_do(receiver: Receiver) -> None:
    receiver.fails = {"chat"}
    async with running(AlarmDesk(NOWHERE, settings("duty", "chat"), Clock())) as desk:
        await on_a_strangers_cluster(desk)
        await desk.take(found(housing=6))
        await until(lambda: desk.outcomes["chat", "failed"] > 3)
        assert receiver.got == [("duty", "raised", "word6")]
        assert desk.pending() == {"duty": 0, "chat": 1}
        receiver.fails.clear()
        await until(lambda: not desk.pending()["chat"])
    assert receiver.got[1:] == [("chat", "raised", "word6")]
    assert desk.outcomes["chat", "delivered"] == 1


@pytest.mark.usefixtures("keeps_none")
async def test_a_later_notice_takes_the_place_of_one_that_did_not_arrive(
    receiver: Receiver,
) -> None:
    receiver.fails = {"chat"}
    async with running(AlarmDesk(NOWHERE, settings("chat"), Clock())) as desk:
        await on_a_strangers_cluster(desk)
        await desk.take(found(housing=3))
        await until(lambda: desk.outcomes["chat", "failed"])
        await desk.take(found(housing=6))
        receiver.fails.clear()
        await until(lambda: not desk.pending()["chat"])
    assert receiver.got == [("chat", "worse", "word6")]
    (worse,) = receiver.documents
    assert worse["notice"] == 2
