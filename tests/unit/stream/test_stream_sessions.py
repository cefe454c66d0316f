"""Fetch sessions: the broker reads what is wanted, and a fetch costs what has something."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import foreign_batches as foreign
import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaError, UnknownError
from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from deptbus.stream import unpack
from deptbus.stream.sessions import SESSION_PARTITIONS, Session, SessionFetcher

NODE = 7
FORGOTTEN, WRONG_EPOCH = 70, 71


class Broker:
    """The broker's half, as KIP-227 has it: sessions by id, each with its next epoch."""

    def __init__(self) -> None:
        self.sessions: dict[int, tuple[int, dict[TopicPartition, int]]] = {}
        self._ids = 0
        self.read: dict[TopicPartition, int] = {}  # of the last fetch
        self.named = 0  # partitions in the last fetch

    def fetch(self, session_id: int, epoch: int, places: Any, forgotten: Any) -> tuple[int, int]:
        """Error code and session id."""
        self.named = len(places) + len(forgotten)
        self.read = {}
        if epoch <= 0:
            self.sessions.pop(session_id, None)
            self.read = dict(places)
            if epoch < 0:
                return 0, 0
            self._ids += 1
            self.sessions[self._ids] = (1, self.read)
            return 0, self._ids
        if session_id not in self.sessions:
            return FORGOTTEN, 0
        wanted, known = self.sessions[session_id]
        if epoch != wanted:
            return WRONG_EPOCH, 0
        for place in forgotten:
            del known[place]  # what was never told cannot be taken back
        known.update(places)
        self.sessions[session_id] = (epoch + 1, known)
        self.read = known
        return 0, session_id


def place(number: int) -> TopicPartition:
    return TopicPartition(f"out.{number // 4}", number % 4)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("want"), st.integers(0, 40), st.integers(0, 5)),
        st.tuples(st.just("drop"), st.integers(0, 40)),
        st.tuples(st.sampled_from(["fetch", "fetch", "unanswered", "evicted"])),
    ),
    max_size=120,
)


@given(steps=STEPS, count=st.sampled_from([0, 40]))
def test_the_broker_reads_what_is_wanted_whatever_is_lost(steps: list[Any], count: int) -> None:
    session, broker = Session(), Broker()
    for number in range(count):
        session.want(place(number), 0)
    for step in [*steps, ("fetch",), ("fetch",)]:
        if step[0] == "want":
            session.want(place(step[1]), step[2])
        elif step[0] == "drop":
            session.drop(place(step[1]))
        elif step[0] == "evicted":
            broker.sessions.clear()
        else:
            asked = session.ask()
            error, session_id = broker.fetch(*asked)
            if step[0] == "unanswered":
                session.lost()
                continue
            session.answered(asked, error, session_id)
            if not error:
                assert broker.read == session.wanted
                assert all(session.told(p) == at for p, at in broker.read.items())
    assert broker.read == session.wanted, "two fetches later it is right whatever there was"


def test_a_session_that_counts_a_lost_fetch_is_found_out() -> None:
    """Planted: who goes on after an unanswered fetch, as if it had been answered."""
    session, broker = Session(), Broker()
    for number in range(SESSION_PARTITIONS):
        session.want(place(number), 0)
    asked = session.ask()
    session.answered(asked, *broker.fetch(*asked))
    session.want(place(0), 1)
    session.ask()  # never arrives, and nobody calls `lost`
    asked = session.ask()
    broker.fetch(*asked)
    assert broker.read != session.wanted


def test_few_partitions_take_no_place_of_the_broker() -> None:
    session, broker = Session(), Broker()
    for number in range(SESSION_PARTITIONS - 1):
        session.want(place(number), 0)
    for _ in range(3):
        asked = session.ask()
        session.answered(asked, *broker.fetch(*asked))
        assert broker.read == session.wanted
        assert not broker.sessions


def test_epochs_begin_again_at_one() -> None:
    session = Session()
    for number in range(SESSION_PARTITIONS):
        session.want(place(number), 0)
    session.answered(session.ask(), 0, 5)
    session._epoch = 2**31 - 1
    session.answered(session.ask(), 0, 5)
    assert session.ask()[:2] == (5, 1)


def test_a_refusal_is_raised_and_the_next_fetch_names_all() -> None:
    session = Session()
    for number in range(SESSION_PARTITIONS):
        session.want(place(number), 0)
    session.answered(session.ask(), 0, 5)
    with pytest.raises(UnknownError):
        session.answered(session.ask(), UnknownError.errno, 0)
    asked = session.ask()
    assert (asked.session_id, asked.epoch, len(asked.places)) == (5, 0, SESSION_PARTITIONS)


# -- the fetcher ----------------------------------------------------------------------------------


class Cluster:
    """One broker leads everything, until it is told otherwise."""

    def __init__(self) -> None:
        self.asked = 0
        self.leaders: dict[TopicPartition, int | None] = {}
        self.listeners: list[Any] = []

    def add_listener(self, listener: Any) -> None:
        self.listeners.append(listener)

    def leader_for_partition(self, tp: TopicPartition) -> int | None:
        self.asked += 1
        return self.leaders.get(tp, NODE)


class Client:
    """Answers fetches from `logs`: one record a batch."""

    _metadata_max_age_ms = 300_000

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.cluster = Cluster()
        self.broker = Broker()
        self.logs: dict[TopicPartition, list[bytes]] = {}
        self.fails = False

    def write(self, tp: TopicPartition) -> None:
        log = self.logs.setdefault(tp, [])
        log.append(foreign.batch(foreign.record(0, b"k", b"v"), 1, base=len(log)))

    async def send(self, _node: int, request: Any) -> FetchResponse_v11:
        if self.fails:
            raise KafkaError
        asked: FetchRequest_v11 = request.build(FetchRequest_v11)
        places = [(TopicPartition(t, n), at) for t, ps in asked.topics for n, _, at, *_ in ps]
        gone = [TopicPartition(t, n) for t, ns in asked.forgotten_topics_data for n in ns]
        error, session_id = self.broker.fetch(asked.session_id, asked.session_epoch, places, gone)
        answer = []
        for tp, at in self.broker.read.items():
            log = self.logs.get(tp, [])
            if at < len(log):
                part = (tp.partition, 0, len(log), len(log), 0, [], -1, b"".join(log[at:]))
                answer.append((tp.topic, [part]))
        return FetchResponse_v11(0, error, session_id, answer)


class Bed:
    """A fetcher whose own task does not run: its turns are taken one by one."""

    def __init__(self, count: int, fetcher: type[Fetcher] = SessionFetcher) -> None:
        unpack.install()
        self.client = Client()
        self.places = [place(number) for number in range(count)]
        subscriptions = SubscriptionState()
        subscriptions.assign_from_user(self.places)
        self.assignment = subscriptions.subscription.assignment
        self.fetcher = fetcher(self.client, subscriptions, isolation_level="read_committed")
        self.fetcher._fetch_task.cancel()
        for tp in self.places:
            self.assignment.state_value(tp).reset_to(0)

    async def turn(self) -> int:
        """One fetch; returns how many partitions were looked at for it."""
        before = self.client.cluster.asked
        requests, resets, *_ = self.fetcher._get_actions_per_node(self.assignment)
        looked = self.client.cluster.asked - before
        assert not resets
        for node, request in requests:
            await self.fetcher._proc_fetch_request(self.assignment, node, request)
        return looked

    async def taken(self) -> dict[TopicPartition, int]:
        """The records that were fetched, by partition."""
        found = await self.fetcher.fetched_records(())
        return {tp: len(records) for tp, records in found.items()}


async def cost(count: int, fetcher: type[Fetcher] = SessionFetcher) -> tuple[int, int]:
    """Partitions looked at and named for fifty fetches that find a record in one or two of them."""
    bed = Bed(count, fetcher)
    await bed.turn()
    looked = named = 0
    chosen = random.Random(5)
    for _ in range(50):
        for tp in {chosen.choice(bed.places[:20]) for _ in range(2)}:
            bed.client.write(tp)
        looked += await bed.turn()
        named += bed.client.broker.named
        assert await bed.taken()
    return looked, named


async def test_a_fetch_costs_the_same_with_a_hundred_times_as_many_idle_partitions() -> None:
    assert await cost(20) == await cost(2000)


async def test_the_clients_own_fetcher_looks_at_all_of_them_each_time() -> None:
    """What the test above is for: it would fail with this one."""

    class Named(Fetcher):
        pass

    looked = []
    for count in (20, 200):
        bed = Bed(count, Named)
        before = bed.client.cluster.asked
        requests, *_ = bed.fetcher._get_actions_per_node(bed.assignment)
        looked.append(bed.client.cluster.asked - before)
        assert sum(len(parts) for _, parts in requests[0][1].topics) == count
    assert looked == [20, 200]


async def test_every_record_of_every_partition_is_fetched_once() -> None:
    bed, chosen, written, found = Bed(200), random.Random(3), 0, dict[TopicPartition, int]()
    for round_number in range(60):
        for _ in range(chosen.randrange(20)):
            bed.client.write(chosen.choice(bed.places))
            written += 1
        if round_number % 7 == 3:
            bed.client.broker.sessions.clear()
        bed.client.fails = round_number % 11 == 5
        await bed.turn()
        bed.client.fails = False
        if chosen.random() < 0.7:
            for tp, count in (await bed.taken()).items():
                found[tp] = found.get(tp, 0) + count
    for _ in range(3):
        for tp, count in (await bed.taken()).items():
            found[tp] = found.get(tp, 0) + count
        await bed.turn()
    assert sum(found.values()) == written
    assert {tp: len(log) for tp, log in bed.client.logs.items()} == found


async def test_an_idle_partition_is_read_though_another_one_is_never_taken() -> None:
    bed = Bed(100)
    bed.fetcher._prefetch_backoff = 0.0  # what lies unread holds nobody up for longer than that
    stuck, idle = bed.places[0], bed.places[99]
    bed.client.write(stuck)
    await bed.turn()
    await bed.turn()
    assert stuck not in bed.client.broker.read
    bed.client.write(idle)
    await bed.turn()
    assert {tp for tp, _ in bed.fetcher._records.items()} == {stuck, idle}
    assert (await bed.taken()) == {stuck: 1, idle: 1}
    await bed.turn()
    assert bed.client.broker.read[stuck] == 1


async def test_where_one_seeks_one_is_read_next() -> None:
    bed = Bed(100)
    tp = bed.places[5]
    for _ in range(3):
        bed.client.write(tp)
    await bed.turn()
    assert await bed.taken() == {tp: 3}
    bed.fetcher.seek_to(tp, 1)
    await bed.turn()
    assert await bed.taken() == {tp: 2}


async def test_a_partition_that_another_broker_leads_is_asked_for_there() -> None:
    bed = Bed(100)
    await bed.turn()
    moved, cluster = bed.places[5], bed.client.cluster
    cluster.leaders[moved] = NODE + 1
    for listener in cluster.listeners:
        listener(cluster)
    requests, _, _, is_stale, _ = bed.fetcher._get_actions_per_node(bed.assignment)
    asked = {node: request._asked for node, request in requests}
    assert asked[NODE].forgotten == [moved]
    assert asked[NODE + 1].places == [(moved, 0)]
    assert not is_stale
    cluster.leaders[moved] = None
    bed.fetcher._metadata_changed(cluster)
    requests, _, _, is_stale, _ = bed.fetcher._get_actions_per_node(bed.assignment)
    assert is_stale, "nobody leads it: metadata are asked for"
    assert {node for node, _ in requests} == {NODE}


async def test_a_paused_partition_leaves_the_session_and_comes_back() -> None:
    bed = Bed(100)
    await bed.turn()
    tp = bed.places[5]
    state = bed.assignment.state_value(tp)
    state.pause()
    bed.client.write(tp)
    await bed.turn()
    assert await bed.taken() == {}, "it was fetched before anybody looked, and is thrown away"
    await bed.turn()
    assert tp not in bed.client.broker.read
    state.resume()
    await bed.turn()
    assert await bed.taken() == {tp: 1}


async def test_a_new_assignment_is_asked_for_whole_and_nothing_else() -> None:
    bed = Bed(100)
    await bed.turn()
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user(bed.places[50:])
    bed.assignment = subscriptions.subscription.assignment
    for tp in bed.places[50:]:
        bed.assignment.state_value(tp).reset_to(0)
    await bed.turn()
    assert set(bed.client.broker.read) == set(bed.places[50:])
    assert len(bed.client.broker.sessions) == 1
