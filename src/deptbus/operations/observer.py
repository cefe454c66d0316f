"""Looks at a cluster and says how far every reader is behind: the hands of `lag` and `verdicts`.

One poll asks, in this order, because each answer bounds the next from the right side:

1. Where partitions begin. (Asked later, a reader that is quick beside a retention that deletes what
   was read would seem to have lost it.)
2. What groups have committed.
3. Where partitions end, by the last stable offset. (Asked earlier, a reader that goes on meanwhile
   would be ahead of it.)
4. The first record that is really unread, where that is not known yet.

Groups that a unit's adapters and the workers should have are asked for although no broker lists
them; every other group counts with what it has committed. A topic of which a group has committed
some partitions is one that it reads whole.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer

from deptbus.connection import Connection
from deptbus.operations.lag import Place, Seen, Unseen
from deptbus.operations.looks import FETCH_BYTES, PARTITION_BYTES, Looks, Wanted
from deptbus.operations.margin import SETTINGS, Keeping, keeping_of
from deptbus.operations.offset_requests import LATEST, UNCOMMITTED, Cluster, Commits, Group
from deptbus.operations.offsets import (
    NO_COORDINATOR,
    NO_MEMBERS,
    NO_TOPIC,
    Listing,
    Offsets,
    Spot,
    Told,
    reason_of,
)
from deptbus.operations.verdicts import USUAL, Limits, Reader, Track, follow
from deptbus.stream.brokers import open_consumer

LOOK_SECONDS = 10.0  # at the most; it is needed where thousands of readers are behind at once


@dataclass(slots=True)
class Picture:
    """What one poll saw. `at`: seconds since 1970, when it began."""

    at: float
    cluster: Cluster
    groups: dict[str, Group | str]  # or why nobody can tell
    is_whole: bool  # every broker told which groups it has
    tracks: dict[Place, Track] = field(default_factory=dict)
    members: dict[str, int] = field(default_factory=dict)  # of groups of which it is known


class Observer:
    """`start`, then `poll` any number of times, one after the other; `stop`.

    `expected`: group -> topics that it should read. Raises BusUnreachable when no broker answers,
    BusRefused when this client may not ask.
    """

    def __init__(
        self,
        connection: Connection,
        limits: Limits = USUAL,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._connection, self._limits, self._now = connection, limits, now
        self._consumer: AIOKafkaConsumer | None = None
        self._tracks: dict[Place, Track] = {}
        self._known: set[str] = set()  # groups that were seen before
        self._topic_ids: dict[str, str] = {}

    async def start(self) -> None:
        self._consumer = await open_consumer(
            self._connection,
            max_partition_fetch_bytes=PARTITION_BYTES,
            fetch_max_bytes=FETCH_BYTES,
        )
        self._offsets = Offsets(self._consumer._client)
        self._looks = Looks(self._consumer)

    async def stop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def cluster(self) -> Cluster:
        """The topics that there are now."""
        return await self._offsets.cluster()

    async def keepings(self, topics: Iterable[str], cluster: Cluster) -> dict[str, Keeping]:
        """What these topics do with what is old; without those of which it may not be known."""
        told = await self._offsets.settings(topics, SETTINGS, cluster)
        return {topic: keeping_of(settings) for topic, settings in told.items()}

    async def poll(
        self,
        cluster: Cluster,
        expected: Mapping[str, Iterable[str]],
        reader_of: Callable[[str, Group | None], Reader],
    ) -> Picture:
        """`reader_of`: what signs say of a group, which is None where no broker lists it."""
        now = self._now()
        starts = await self._offsets.starts(cluster)
        listing = await self._offsets.groups(cluster.brokers)
        members = await self._offsets.members(listing)
        groups, commits = await self._commits(listing, cluster, expected)
        places = dict(_places(cluster, commits, expected))
        for place in self._tracks:  # what cannot be told any more is not forgotten
            told = commits.get(place.group)
            if isinstance(told, str):
                places[place] = told
            elif place.topic in expected.get(place.group, ()) and place not in places:
                places[place] = NO_TOPIC
        spots = {(place.topic, place.partition) for place in places}
        ends = await self._offsets.offsets(spots, cluster, LATEST)
        highs = await self._highs(places, ends, cluster)
        self._forget_others(cluster)
        await self._look(places, starts, ends)
        picture = Picture(now, cluster, groups, listing.is_whole, members=members)
        for place, committed in places.items():
            seen = self._seen(place, committed, cluster, starts, ends, highs)
            group = groups.get(place.group)
            reader = reader_of(place.group, group if isinstance(group, Group) else None)
            before = self._tracks.get(place)
            picture.tracks[place] = follow(before, seen, reader, now, self._limits)
        self._tracks = picture.tracks
        return picture

    async def _commits(
        self, listing: Listing, cluster: Cluster, expected: Mapping[str, Iterable[str]]
    ) -> tuple[dict[str, Group | str], dict[str, Commits | str]]:
        coordinators = dict(listing.coordinators)
        unlisted = (self._known | expected.keys()) - coordinators.keys()
        coordinators |= await self._offsets.coordinators(unlisted, cluster.brokers)
        commits = await self._offsets.commits(coordinators)
        groups: dict[str, Group | str] = dict(listing.groups)
        for group in unlisted - coordinators.keys():
            commits[group] = NO_COORDINATOR
        groups |= {group: told for group, told in commits.items() if isinstance(told, str)}
        self._known |= listing.groups.keys()
        return groups, commits

    async def _highs(
        self, places: Mapping[Place, int | str | None], ends: Told, cluster: Cluster
    ) -> Told:
        """The log's end where a reader stands behind the last stable offset."""
        beyond = {
            (place.topic, place.partition)
            for place, committed in places.items()
            if isinstance(committed, int)
            and isinstance(end := ends[place.topic, place.partition], int)
            and committed > end
        }
        return await self._offsets.offsets(beyond, cluster, LATEST, UNCOMMITTED) if beyond else {}

    def _forget_others(self, cluster: Cluster) -> None:
        for name, topic in cluster.topics.items():
            if self._topic_ids.get(name, topic.topic_id) != topic.topic_id:
                self._looks.forget(name)
            self._topic_ids[name] = topic.topic_id

    async def _look(
        self, places: Mapping[Place, int | str | None], starts: Told, ends: Told
    ) -> None:
        """In rounds, because groups that read the same partition may stand at different places."""
        positions: dict[Spot, set[int]] = defaultdict(set)
        for place, committed in places.items():
            spot = place.topic, place.partition
            start, end = starts.get(spot), ends[spot]
            if isinstance(committed, str) or not (isinstance(start, int) and isinstance(end, int)):
                continue
            position = start if committed is None else max(committed, start)
            if position < end:
                positions[spot].add(position)
        self._looks.keep_only(positions)
        deadline = time.monotonic() + LOOK_SECONDS
        while positions and time.monotonic() < deadline:
            wanted: dict[Spot, Wanted] = {}
            for spot, standing in list(positions.items()):
                end = ends[spot]
                assert isinstance(end, int)
                unknown = {p for p in standing if self._looks.known(*spot, p, end) is None}
                if unknown:
                    wanted[spot] = Wanted(min(unknown), end)
                    positions[spot] = unknown - {min(unknown)}
                else:
                    del positions[spot]
            if wanted:
                await self._looks.look(wanted, deadline - time.monotonic())

    def _seen(
        self,
        place: Place,
        committed: int | str | None,
        cluster: Cluster,
        starts: Told,
        ends: Told,
        highs: Told,
    ) -> Seen | Unseen:
        spot = place.topic, place.partition
        start, end, high = starts.get(spot, NO_TOPIC), ends[spot], highs.get(spot)
        for told in (committed, end, start):
            if isinstance(told, str):
                return Unseen(told)
        assert isinstance(start, int)
        assert isinstance(end, int)
        assert not isinstance(committed, str)
        position = start if committed is None else max(committed, start)
        return Seen(
            committed,
            start,
            end,
            high if isinstance(high, int) else None,
            self._looks.known(*spot, position, end) if position < end else None,
            cluster.topics[place.topic].topic_id,
        )


def _places(
    cluster: Cluster,
    commits: Mapping[str, Commits | str],
    expected: Mapping[str, Iterable[str]],
) -> Iterable[tuple[Place, int | str | None]]:
    """Every place that counts, with what is committed there, None, or why nobody can tell."""
    for group, told in commits.items():
        wanted = set(expected.get(group, ()))
        topics = wanted & cluster.topics.keys()
        for topic in wanted - topics:
            yield Place(group, topic, 0), NO_TOPIC  # it has one at the least
        if isinstance(told, str):
            for topic in topics:
                for partition in range(len(cluster.topics[topic].leaders)):
                    yield Place(group, topic, partition), told
            continue
        numbers: dict[str, set[int]] = {topic: set() for topic in topics}
        for topic, partition in (*told.offsets, *told.errors):
            numbers.setdefault(topic, set()).add(partition)
        for topic, some in numbers.items():
            known = cluster.topics.get(topic)
            every = some if known is None else some | set(range(len(known.leaders)))
            for partition in sorted(every):
                error = told.errors.get((topic, partition))
                committed = told.offsets.get((topic, partition))
                yield Place(group, topic, partition), reason_of(error) if error else committed


def reader_by_members(group: Group | None) -> Reader:
    """Of a group whose members share its partitions, or who commits without being in it."""
    if group is None or (group.state in NO_MEMBERS and not group.protocol):
        return Reader.UNKNOWN
    return Reader.GONE if group.state in NO_MEMBERS else Reader.ALIVE
