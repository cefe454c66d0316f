"""Fetches from thousands of partitions at the cost of those that have something (KIP-227).

The client's own fetcher looks at every assigned partition before each fetch and names all of them
in it. A broker remembers a session instead: it is told only of partitions whose position changed,
and answers only with those that have something. Here the same is remembered on our side.

1. A partition is looked at when something happened to it: assigned, answered, sought, reset, its
   records still unread, its leader unknown; all of them when group or metadata changed.
2. What the broker knows is what was told in fetches that it answered. After one without an answer
   nobody knows: the next one names everything, and begins a session anew.
3. A few partitions are named each time: a session takes one of the broker's thousand places, and
   most consumers have few partitions and live for a moment.

A broker moves partitions that it answered with to the end of a session's order, so none starves;
one whose records lie unread in the client leaves the session until they are taken.

Reaches into the client, whose version is pinned.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import consumer as consumer_module
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState
from aiokafka.errors import IncompatibleBrokerVersion, for_code
from aiokafka.protocol.fetch import FetchRequest, FetchRequestStruct
from aiokafka.structs import TopicPartition

SESSION_PARTITIONS = 16  # so many are worth a session
_NONE, _FIRST, _LAST = -1, 0, 2**31 - 1  # epochs
_FORGOTTEN = {70, 71}  # FETCH_SESSION_ID_NOT_FOUND, INVALID_FETCH_SESSION_EPOCH
_OLDEST_VERSION = 7  # of the fetch request, Kafka 1.1


class Asked(NamedTuple):
    """One fetch: which session, what is added to it or moved in it, and what leaves it."""

    session_id: int
    epoch: int
    places: list[tuple[TopicPartition, int]]
    forgotten: list[TopicPartition]


class Session:
    """What one broker is to be asked for, and what it knows of that. Pure."""

    def __init__(self) -> None:
        self.wanted: dict[TopicPartition, int] = {}  # -> the offset from which on
        self._told: dict[TopicPartition, int] = {}
        self._changed: set[TopicPartition] = set()
        self._id = 0
        self._epoch = _FIRST

    def want(self, place: TopicPartition, position: int) -> None:
        self.wanted[place] = position
        self._changed.add(place)

    def drop(self, place: TopicPartition) -> None:
        """Ask for it no longer."""
        if self.wanted.pop(place, None) is not None:
            self._changed.add(place)

    def told(self, place: TopicPartition) -> int | None:
        """From which offset on the broker was asked for it."""
        return self._told.get(place)

    def ask(self) -> Asked:
        """The next fetch; `answered` or `lost` comes before another one."""
        told, wanted = self._told, self.wanted
        if self._epoch == _FIRST:
            told.clear()
            changed: Iterable[TopicPartition] = random.sample(list(wanted), len(wanted))
        else:
            changed = self._changed
        places = [(p, wanted[p]) for p in changed if p in wanted and wanted[p] != told.get(p)]
        forgotten = [p for p in changed if p in told and p not in wanted]
        self._changed = set()
        told.update(places)
        for place in forgotten:
            del told[place]
        is_worth_it = self._epoch != _FIRST or len(places) >= SESSION_PARTITIONS
        return Asked(self._id, self._epoch if is_worth_it else _NONE, places, forgotten)

    def answered(self, asked: Asked, error: int, session_id: int) -> None:
        """Raises KafkaError when the broker refused the fetch as such. Where it has forgotten the
        session its answer holds nothing, and the next fetch begins another one."""
        if error:
            self.lost()
            if error not in _FORGOTTEN:
                raise for_code(error)
        elif asked.epoch > _FIRST:
            self._epoch = self._epoch + 1 if self._epoch < _LAST else 1
        elif asked.epoch == _FIRST and session_id:  # 0: the broker has no place for another one
            self._id, self._epoch = session_id, 1

    def lost(self) -> None:
        """Nobody knows what the broker knows. The next fetch ends the old session too."""
        self._epoch = _FIRST


class SessionFetch(FetchRequest):
    """A fetch of a session. `topics` is what the fetcher judges the answer by: of the partitions
    that were answered, where the broker read them."""

    def __init__(
        self,
        session: Session,
        max_wait_ms: int,
        min_bytes: int,
        max_bytes: int,
        isolation_level: int,
        partition_bytes: int,
    ) -> None:
        super().__init__(max_wait_ms, min_bytes, max_bytes, isolation_level, [])
        self.session = session
        self._asked = session.ask()
        self._partition_bytes = partition_bytes

    def build(self, request_struct_class: type[FetchRequestStruct]) -> FetchRequestStruct:
        version = request_struct_class.API_VERSION
        if version < _OLDEST_VERSION:
            raise IncompatibleBrokerVersion("fetch sessions want Kafka 1.1 or later")
        asked = self._asked
        topics: defaultdict[str, list[tuple[int, ...]]] = defaultdict(list)
        leader_epoch = (-1,) if version >= 9 else ()
        for (topic, number), position in asked.places:
            topics[topic].append((number, *leader_epoch, position, -1, self._partition_bytes))
        forgotten: defaultdict[str, list[int]] = defaultdict(list)
        for topic, number in asked.forgotten:
            forgotten[topic].append(number)
        words: list[Any] = [-1, self._max_wait_ms, self._min_bytes, self._max_bytes]
        words += [self._isolation_level, asked.session_id, asked.epoch]
        words += [list(topics.items()), list(forgotten.items())]
        return request_struct_class(*words, *([""] if version >= 11 else []))

    def answered(self, response: Any) -> list[TopicPartition]:
        """The partitions of the answer. Raises KafkaError, see Session.answered."""
        self.session.answered(self._asked, response.error_code, response.session_id)
        found = [
            TopicPartition(topic, number)
            for topic, partitions in response.topics
            for number, *_ in partitions
        ]
        told = self.session.told
        self._topics = [(p.topic, [(p.partition, told(p), 0)]) for p in found]
        return found


class _Client:
    """The fetcher's client, which sees the answers to fetches before the fetcher does."""

    def __init__(self, client: AIOKafkaClient, happened: set[TopicPartition]) -> None:
        self._client = client
        self._happened = happened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def send(self, node_id: int, request: Any, **words: Any) -> Any:
        if not isinstance(request, SessionFetch):
            return await self._client.send(node_id, request, **words)
        try:
            response = await self._client.send(node_id, request, **words)
            self._happened.update(request.answered(response))
        except BaseException:
            request.session.lost()
            raise
        return response


class SessionFetcher(Fetcher):
    """The client's fetcher, which asks by sessions."""

    def __init__(
        self, client: AIOKafkaClient, subscriptions: SubscriptionState, **words: Any
    ) -> None:
        self._sessions: defaultdict[int, Session] = defaultdict(Session)  # by broker
        self._homes: dict[TopicPartition, int] = {}  # whose session a partition is in
        self._happened: set[TopicPartition] = set()  # to be looked at
        self._known: Assignment | None = None
        super().__init__(_Client(client, self._happened), subscriptions, **words)
        client.cluster.add_listener(self._metadata_changed)

    def _metadata_changed(self, _cluster: Any) -> None:
        if self._known is not None:
            self._happened.update(self._known.tps)

    def _get_actions_per_node(self, assignment: Assignment) -> Any:
        if assignment is not self._known:
            self._begin(assignment)
        waits: defaultdict[Any, list[float]] = defaultdict(list)
        resets: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        resumes = []
        is_stale = False
        for place in list(self._happened):
            node, state = self._select_read_replica(place), assignment.state_value(place)
            unread = self._records.get(place)
            if unread is not None:
                self._leave(place)
                if left := unread.calculate_backoff():
                    waits[node].append(left)
            elif node in self._in_flight:
                continue
            elif node is None or node == -1:
                self._leave(place)
                is_stale = True
            elif not state.has_valid_position:
                self._leave(place)
                resets[node].append(place)
            elif state.paused:
                self._leave(place)
                resumes.append(state.resume_fut)
            else:
                self._join(place, node, state.position)
                self._happened.discard(place)
        requests = [
            (node, self._ask(session))
            for node, session in self._sessions.items()
            if session.wanted and not (node in self._in_flight or node in waits or node in resets)
        ]
        wait = min(map(max, waits.values())) if waits else self._fetcher_timeout
        return requests, resets, wait, is_stale, resumes

    def _begin(self, assignment: Assignment) -> None:
        self._known = assignment
        for place in list(self._homes):
            self._leave(place)
        self._happened.clear()
        self._happened.update(assignment.tps)

    def _join(self, place: TopicPartition, node: int, position: int) -> None:
        if self._homes.get(place, node) != node:
            self._leave(place)
        self._homes[place] = node
        self._sessions[node].want(place, position)

    def _leave(self, place: TopicPartition) -> None:
        home = self._homes.pop(place, None)
        if home is not None:
            self._sessions[home].drop(place)

    def _ask(self, session: Session) -> SessionFetch:
        return SessionFetch(
            session,
            self._fetch_max_wait_ms,
            self._fetch_min_bytes,
            self._fetch_max_bytes,
            self._isolation_level,
            self._max_partition_fetch_bytes,
        )

    def request_offset_reset(self, tps: Any, strategy: int) -> Any:
        tps = list(tps)
        self._happened.update(tps)
        return super().request_offset_reset(tps, strategy)

    def seek_to(self, tp: TopicPartition, offset: int) -> None:
        self._happened.add(tp)
        super().seek_to(tp, offset)


def install() -> None:
    """From now on all consumers of this process fetch so. May be called again."""
    consumer_module.Fetcher = SessionFetcher
