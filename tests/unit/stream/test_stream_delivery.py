"""Routing a batch, and how an agent waits for the environment: a Sender that only notes."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace

import pytest
import stream_town as town

from deptbus.change import DeliveryOp
from deptbus.contract.model import Grant, Hold, Policy
from deptbus.errors import BusRefused, BusUnreachable, ContractUnreadable
from deptbus.metrics.counts import Counts
from deptbus.names import AGENTS, QUARANTINE, SCHEMAS, data_topic, in_topic
from deptbus.routing import Router
from deptbus.routing.grants import CHINA
from deptbus.stream import desk as desk_module
from deptbus.stream import work
from deptbus.stream.batches import Batch
from deptbus.stream.delivery import HORIZONTAL, VERTICAL, Carrier, route_batch
from deptbus.stream.desk import Desk, Stopping
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.stream.policies import LEASE_SECONDS
from deptbus.stream.reports import PoliciesAtWork, Reporter
from deptbus.stream.sender import Pair, Place
from deptbus.stream.work import deliver
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import decode_control
from deptbus.wire.guard import MAX_CHANGE_BYTES

DATA = data_topic("resident")


def batch_of(*changes, garbage: bytes | None = None) -> Batch:
    source = town.Source()
    values = [(c.key, source.codecs.encode_change(c)) for c in changes]
    if garbage is not None:
        values.insert(1, (b"k" * 16, garbage))
    records = [LogRecord(DATA, 2, 10 + i, 0, k, v) for i, (k, v) in enumerate(values)]
    return Batch(DATA, 2, records, streams=2)


class NotingSender:
    """Keeps what it is given; for a topic it raises what `fails` says, or waits in `holds`."""

    def __init__(self) -> None:
        self.sent: list[Outgoing] = []
        self.fails: dict[str, Exception] = {}
        self.holds: dict[str, asyncio.Event] = {}

    async def send(self, records: Sequence[Outgoing], *, deadline_seconds: float = 1) -> list[int]:
        await asyncio.sleep(0)
        for record in records:
            if record.topic in self.fails:
                raise self.fails[record.topic]
            if record.topic in self.holds:
                await self.holds[record.topic].wait()
        self.sent += records
        return list(range(len(records)))

    async def send_boxes(
        self, boxes: Mapping[Place, Sequence[Pair]], *, deadline_seconds: float = 1
    ) -> None:
        records = [Outgoing(*place, *pair) for place, pairs in boxes.items() for pair in pairs]
        await self.send(records)


class FakePolicies:
    def __init__(self, policy: Policy) -> None:
        self.policy: Policy | None = policy
        self.next: Policy | None = None
        self.read_at = 0.0

    def current(self) -> Policy:
        if self.policy is None:
            raise ContractUnreadable("stale")
        return self.policy

    async def refresh(self) -> None:
        self.policy = self.next or self.policy


class FakeDesk(Desk):
    """A desk whose policies and senders are here."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policies = FakePolicies(policy or town.policy())  # type: ignore[assignment]
        self.codecs = Codecs(town.contract())
        self.at_work = PoliciesAtWork()
        self.bus = NotingSender()
        self.counts = Counts()
        self.stopping = asyncio.Event()
        self.ending = asyncio.get_running_loop().create_future()
        self.topics_digest = ""
        self._reporter = SimpleNamespace(age_seconds=0.0, heard_since=0.0)  # type: ignore[assignment]
        self._bench = None
        self._schemas = {}

    def sender(self, name: str) -> NotingSender:  # type: ignore[override]
        return self.bus

    def sent_to(self, topic: str) -> list[Outgoing]:
        return [record for record in self.bus.sent if record.topic == topic]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "_BACKOFF_SECONDS", (0.001, 0.002))


async def test_deliveries_are_split_by_direction_and_keep_key_place_and_order():
    source = town.Source()
    changes = [source.change("a", v) for v in (1, 2, 3)]
    batch = batch_of(*changes)
    codecs = Codecs(town.contract())
    routed = await route_batch(
        DATA,
        2,
        batch.records,
        carrier=Carrier(Router(town.policy()), codecs),
        codecs=codecs,
        now=datetime(2026, 6, 1, tzinfo=UTC),
    )
    assert list(routed.deliveries[HORIZONTAL]) == [in_topic(town.HOUSING)]
    assert set(routed.deliveries[VERTICAL]) == {
        in_topic(town.CITY_POLICE),
        in_topic(town.TOWN_POLICE),
    }
    for boxes in routed.deliveries.values():
        for pairs in boxes.values():
            assert {key for key, _ in pairs} == {changes[0].key}
            decoded = [codecs.decode_inbox(key, value) for key, value in pairs]
            assert [(d.version, d.policy) for d in decoded] == [(1, 1), (2, 1), (3, 1)]


@pytest.mark.parametrize("is_known", [False, True])
async def test_the_largest_change_reaches_everybody_under_whatever_rule(is_known: bool):
    """Its deliveries name rules and grants that its source never heard of: they fit all the same,
    or the change would end the worker that routes it, again and again."""
    agreed = town.contract()
    resident = agreed.datasets["resident"]
    rules = tuple(
        rule.model_copy(update={"rule": f"{rule.rule}-{'so-it-was-agreed-' * 20}"})
        for rule in resident.receivers
    )
    named = {"resident": resident.model_copy(update={"receivers": rules})}
    policy = town.policy(of=agreed.model_copy(update={"datasets": named}))
    source, codecs = town.Source(), Codecs(agreed)

    def long(name: str) -> tuple[bytes, bytes]:
        words = {"id": "a", "name": name, "division": town.PLACE, "phone": None}
        change = source.change("a", 1, record=codecs.record_codec("resident", 1).encode(words))
        return change.key, codecs.encode_change(change)

    half = MAX_CHANGE_BYTES // 2
    largest = long("x" * (half + MAX_CHANGE_BYTES - len(long("x" * half)[1])))
    assert len(largest[1]) == MAX_CHANGE_BYTES
    sent = [long("x"), largest] if is_known else [largest]
    records = [LogRecord(DATA, 2, n, 0, *pair) for n, pair in enumerate(sent)]
    routed = await route_batch(
        DATA,
        2,
        records,
        carrier=Carrier(Router(policy), codecs),
        codecs=codecs,
        now=datetime(2026, 6, 1, tzinfo=UTC),
    )
    assert not routed.reasons
    boxes = [box for mine in routed.deliveries.values() for box in mine.values()]
    assert [len(box) for box in boxes] == [len(sent)] * 3


async def test_what_waited_for_an_inbox_beyond_the_end_of_a_grant_is_not_delivered_by_it(
    monkeypatch: pytest.MonkeyPatch,
):
    """The next policy may be late; the grant says itself how long it lasts."""
    grant = Grant(
        grant="until-june",
        unit=town.OTHER_POLICE,
        dataset="resident",
        fields=("id", "name"),
        purpose="test",
        territory="330106",
        starts=date(2026, 1, 1),
        until=date(2026, 6, 1),
    )
    policy = town.policy(of=town.contract().model_copy(update={"grants": (grant,)}))
    clock = SimpleNamespace(time=datetime(2026, 6, 1, 12, tzinfo=CHINA))
    monkeypatch.setattr(work, "datetime", SimpleNamespace(now=lambda zone: clock.time))
    desk, batch = FakeDesk(policy), batch_of(town.Source().change("a", 1))
    inbox = in_topic(town.OTHER_POLICE)
    desk.bus.fails[inbox] = BusUnreachable("no leader")
    send_boxes = desk.bus.send_boxes

    async def a_day_goes_by(boxes: Mapping[Place, Sequence[Pair]], **words: float) -> None:
        try:
            await send_boxes(boxes, **words)
        except BusUnreachable:
            if len(boxes) == 1:  # this inbox by itself, behind the attempt with all of them
                clock.time += timedelta(days=1)
                del desk.bus.fails[inbox]
            raise

    desk.bus.send_boxes = a_day_goes_by  # type: ignore[method-assign]
    await asyncio.wait_for(deliver(desk, HORIZONTAL, batch), 60)
    found = [desk.codecs.decode_inbox(r.key, r.value) for r in desk.sent_to(inbox)]
    assert [d.op for d in found] == [DeliveryOp.WITHDRAW]
    assert len(desk.sent_to(in_topic(town.HOUSING))) == 1


async def test_both_agents_share_one_routing_and_schemas_come_first():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1), garbage=b"\xff")
    await asyncio.gather(deliver(desk, HORIZONTAL, batch), deliver(desk, VERTICAL, batch))
    topics = [record.topic for record in desk.bus.sent]
    assert topics.count(in_topic(town.HOUSING)) == 1
    assert topics.count(in_topic(town.CITY_POLICE)) == 1
    assert topics.count(QUARANTINE) == 1
    assert max(i for i, t in enumerate(topics) if t == SCHEMAS) < topics.index(
        in_topic(town.HOUSING)
    )


def counted(counts: Counts) -> dict[str, dict[tuple[str, ...], int]]:
    found: dict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
    for (name, labels), count in counts.sums():
        found[name][labels] = count
    return found


async def test_deliveries_are_counted_by_direction_when_their_agent_has_sent_them():
    """Three changes: the first shows the way that the others take."""
    source = town.Source()
    batch = batch_of(*[source.change("a", v) for v in (1, 2, 3)], garbage=b"\xff")
    desk = FakeDesk()
    await deliver(desk, HORIZONTAL, batch)
    assert counted(desk.counts) == {
        "deptbus_delivered_total": {("horizontal",): 3},
        "deptbus_routed_records_total": {("resident",): 3},
        "deptbus_withheld_total": {("resident",): 0},
        "deptbus_quarantined_total": {("routing", "not_framed"): 1},
    }
    await deliver(desk, VERTICAL, batch)
    assert counted(desk.counts)["deptbus_delivered_total"] == {
        ("horizontal",): 3,
        ("upward",): 3,
        ("downward",): 3,
    }
    assert counted(desk.counts)["deptbus_routed_records_total"] == {("resident",): 3}
    assert sum(desk.counts.histogram("deptbus_route_seconds").counts) == 1


@pytest.mark.parametrize(
    ("target", "held_back", "horizontal"),
    [({"unit": town.HOUSING}, 3, 0), ({"dataset": "resident"}, 9, 0), ({}, 0, 3)],
)
async def test_what_a_hold_keeps_back_is_counted(
    target: dict[str, str], held_back: int, horizontal: int
):
    source = town.Source()
    batch = batch_of(*[source.change("a", v) for v in (1, 2, 3)])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    holds = (Hold(**target, reason="r", held_by="o", held_at=at),) if target else ()
    desk = FakeDesk(town.policy().model_copy(update={"holds": holds}))
    await deliver(desk, HORIZONTAL, batch)
    found = counted(desk.counts)
    assert found["deptbus_withheld_total"] == {("resident",): held_back}
    assert found["deptbus_delivered_total"].get(("horizontal",), 0) == horizontal


async def test_a_schema_made_by_another_batch_is_awaited():
    """The second batch needs no new schema, and must not overtake the first one's writing."""
    desk = FakeDesk()
    desk.bus.holds[SCHEMAS] = asyncio.Event()
    first = asyncio.create_task(deliver(desk, HORIZONTAL, batch_of(town.Source().change("a", 1))))
    await asyncio.wait((first,), timeout=0.02)
    second = asyncio.create_task(deliver(desk, HORIZONTAL, batch_of(town.Source().change("b", 1))))
    await asyncio.wait((first, second), timeout=0.05)
    assert desk.bus.sent == []
    desk.bus.holds[SCHEMAS].set()
    await asyncio.gather(first, second)
    assert desk.bus.sent[0].topic == SCHEMAS


async def test_nothing_goes_out_under_a_stale_policy():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1))
    policy, desk.policies.policy = desk.policies.policy, None
    task = asyncio.create_task(deliver(desk, HORIZONTAL, batch))
    await asyncio.wait((task,), timeout=0.05)
    assert desk.bus.sent == []
    desk.policies.policy = policy
    await task
    assert len(desk.sent_to(in_topic(town.HOUSING))) == 1


async def test_nothing_goes_out_while_the_bus_does_not_hear_of_us():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1))
    desk._reporter.age_seconds = LEASE_SECONDS + 1
    task = asyncio.create_task(deliver(desk, HORIZONTAL, batch))
    await asyncio.wait((task,), timeout=0.05)
    desk._reporter.age_seconds, desk._reporter.heard_since = 0.0, 5.0  # heard of again
    await asyncio.wait((task,), timeout=0.05)
    assert desk.bus.sent == []
    desk.policies.read_at = 6.0  # and the contract read since
    await task
    assert len(desk.sent_to(in_topic(town.HOUSING))) == 1


async def test_the_reporter_knows_since_when_it_is_heard_of():
    bus, loop = NotingSender(), asyncio.get_running_loop()
    reporter = Reporter(bus, "w", lambda: (1, "d"), asyncio.Event(), lease_seconds=0.05)
    assert reporter.age_seconds > 1e9
    before = loop.time()
    await reporter.start()
    first = reporter.heard_since
    assert before <= first <= loop.time()
    assert reporter.age_seconds < 0.05
    bus.fails[AGENTS] = BusUnreachable("down")
    reporter._changed.set()
    deadline = loop.time() + 5
    while reporter.age_seconds < 0.05:
        assert loop.time() < deadline
        await asyncio.sleep(0.01)
    assert reporter.heard_since == first
    bus.fails.clear()
    reporter._changed.set()
    while reporter.heard_since == first:
        assert loop.time() < deadline
        await asyncio.sleep(0.01)
    assert reporter.age_seconds < 0.05
    await reporter.stop()
    assert decode_control(bus.sent[-1].value).state == "stopped"


async def test_a_policy_that_comes_while_routing_waits_is_routed_under():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1))
    desk.bus.holds[SCHEMAS] = asyncio.Event()
    task = asyncio.create_task(deliver(desk, HORIZONTAL, batch))
    await asyncio.wait((task,), timeout=0.02)
    assert desk.at_work.oldest(9) == 1
    desk.policies.policy = town.policy(2, town.contract(housing_fields=("id",)))
    desk.bus.holds[SCHEMAS].set()
    await task
    assert desk.at_work.oldest(9) == 9
    [record] = desk.sent_to(in_topic(town.HOUSING))
    assert desk.codecs.decode_inbox(record.key, record.value).policy == 2
    assert desk.codecs.decode_inbox(record.key, record.value).fields == ("id",)


async def test_a_change_that_names_a_newer_policy_makes_us_read_it_first():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1, policy=2))
    desk.policies.next = town.policy(2)
    await deliver(desk, HORIZONTAL, batch)
    [record] = desk.sent_to(in_topic(town.HOUSING))
    assert desk.codecs.decode_inbox(record.key, record.value).policy == 2


async def test_an_inbox_that_refuses_stops_the_batch_and_does_not_fill_the_others():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1))
    desk.bus.fails[in_topic(town.CITY_POLICE)] = BusRefused("no right")
    task = asyncio.create_task(deliver(desk, VERTICAL, batch))
    async with asyncio.timeout(30):
        while not desk.sent_to(in_topic(town.TOWN_POLICE)):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)
    await asyncio.wait((task,), timeout=0.05)  # time for what must not happen
    assert not task.done()
    assert len(desk.sent_to(in_topic(town.TOWN_POLICE))) == 1
    desk.bus.fails.clear()
    await task
    assert len(desk.sent_to(in_topic(town.TOWN_POLICE))) == 1
    assert len(desk.sent_to(in_topic(town.CITY_POLICE))) == 1


@pytest.mark.parametrize("how", ["stopping", "revoked"])
async def test_a_batch_that_waits_gives_up_when_it_should(how: str):
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1))
    desk.bus.fails[in_topic(town.HOUSING)] = BusUnreachable("down")
    task = asyncio.create_task(deliver(desk, HORIZONTAL, batch))
    await asyncio.wait((task,), timeout=0.02)
    if how == "stopping":
        desk.stopping.set()
    else:
        batch.is_forgotten = True
    with pytest.raises(Stopping):
        await asyncio.wait_for(task, 5)


async def test_our_own_bugs_are_not_waited_for():
    desk, batch = FakeDesk(), batch_of(town.Source().change("a", 1))
    desk.bus.fails[in_topic(town.HOUSING)] = RuntimeError("bug")
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(deliver(desk, HORIZONTAL, batch), 5)


async def test_other_topics_ask_the_worker_to_end():
    desk = FakeDesk()
    desk.topics_digest = "another"
    desk.bench()
    assert desk.ending.result() == 3


async def test_the_policy_reported_is_the_oldest_at_work():
    at_work = PoliciesAtWork()
    with at_work.under(3):
        with suppress(ValueError), at_work.under(2):
            assert at_work.oldest(4) == 2
            raise ValueError
        assert at_work.oldest(4) == 3
    assert at_work.oldest(4) == 4
