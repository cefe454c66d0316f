"""One poll on a simulated cluster: what is away is unknown, and the order of questions counts."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.simulated_cluster import (
    COMMITS,
    MEMBERS,
    OFFSETS,
    Log,
    SimulatedCluster,
    SimulatedGroup,
)
from deptbus.errors import BusUnreachable
from deptbus.operations.lag import Lag, Look, PartitionState, Place
from deptbus.operations.observer import Observer, Picture, reader_by_members
from deptbus.operations.offset_requests import Group
from deptbus.operations.offsets import Offsets
from deptbus.operations.verdicts import USUAL, Reader, Verdict

NOW = 1_800_000_000.0
THEIRS = "theirs"


class Remembered:
    """In place of looks: what lies unread is a minute old."""

    def __init__(self) -> None:
        self.looked: list[dict] = []

    def known(self, topic: str, partition: int, position: int, end: int) -> Look | None:
        return Look(position, end, position, int((NOW - 61) * 1000), end - position)

    def forget(self, topic: str) -> None: ...

    def keep_only(self, positions: dict) -> None: ...

    async def look(self, wanted: dict, seconds: float) -> None:
        self.looked.append(wanted)


class Eye:
    def __init__(self, cluster: SimulatedCluster) -> None:
        self.observer = Observer(None, USUAL, lambda: NOW)  # type: ignore[arg-type]
        client: Any = cluster
        self.observer._offsets = Offsets(client)
        self.observer._looks = Remembered()  # type: ignore[assignment]

    async def poll(self, **expected: list[str]) -> Picture:
        cluster = await self.observer.cluster()
        return await self.observer.poll(cluster, expected, lambda _, g: reader_by_members(g))


def town(committed: int = 5, **log: int) -> SimulatedCluster:
    group = SimulatedGroup(commits={("orders", 0): committed, ("orders", 1): 9})
    logs = {"orders": [Log(**({"end": 9} | log)), Log(end=9)]}
    return SimulatedCluster((1, 2), logs, {THEIRS: group})


def place(partition: int = 0, group: str = THEIRS, topic: str = "orders") -> Place:
    return Place(group, topic, partition)


async def test_what_is_there():
    picture = await Eye(town()).poll()
    assert picture.is_whole
    assert picture.groups == {THEIRS: Group("Stable", "consumer")}
    late, well = picture.tracks[place(0)], picture.tracks[place(1)]
    assert late.lag == Lag(PartitionState.OK, 4, pytest.approx(61, abs=0.01), waits=True)
    assert late.verdict is Verdict.BEHIND
    assert (well.lag.records, well.verdict) == (0, Verdict.OK)


async def test_members_are_counted_where_somebody_can_tell():
    cluster = town()
    cluster.groups[THEIRS].members = 3
    cluster.groups["idle"] = SimulatedGroup(state="Empty")
    cluster.groups["newer"] = SimulatedGroup(is_newer=True)
    cluster.groups["elsewhere"] = SimulatedGroup(coordinator=2)
    assert (await Eye(cluster).poll()).members == {THEIRS: 3, "idle": 0, "elsewhere": 1}
    cluster.on_ask = lambda key: cluster.away.add(2) if key == MEMBERS else None
    assert (await Eye(cluster).poll()).members == {THEIRS: 3, "idle": 0}


@pytest.mark.parametrize("code", [3, 5, 6, 9, 29, 56])
async def test_an_error_code_of_a_partition_is_no_number(code):
    cluster = town()
    cluster.logs["orders"][0].error = code
    track = (await Eye(cluster).poll()).tracks[place(0)]
    assert track.lag.state is PartitionState.UNREACHABLE
    assert (track.lag.records, track.lag.seconds, track.verdict) == (None, None, None)
    assert track.lag.reason


async def test_a_broker_that_is_away_hides_what_it_leads_and_nothing_else():
    cluster = town()
    cluster.logs["orders"][0].leader = 2
    cluster.away = {2}
    picture = await Eye(cluster).poll()
    assert picture.tracks[place(0)].lag == Lag(PartitionState.UNREACHABLE, reason="broker_away")
    assert picture.tracks[place(1)].verdict is Verdict.OK
    assert not picture.is_whole  # it may have groups that nobody else knows


async def test_a_partition_without_a_leader():
    cluster = town()
    cluster.logs["orders"][0].leader = -1
    track = (await Eye(cluster).poll()).tracks[place(0)]
    assert track.lag == Lag(PartitionState.UNREACHABLE, reason="no_leader")


async def test_a_coordinator_that_is_away_is_no_group_without_commits():
    cluster = town()
    cluster.groups[THEIRS].coordinator = 2
    eye = Eye(cluster)
    assert (await eye.poll()).tracks[place(0)].verdict is Verdict.BEHIND
    cluster.away = {2}
    picture = await eye.poll()
    # Known from before, though nobody lists it now; and one that is expected.
    for partition in (0, 1):
        lag = picture.tracks[place(partition)].lag
        assert lag == Lag(PartitionState.UNREACHABLE, reason="coordinator_away")
    assert picture.groups[THEIRS] == "coordinator_away"
    expected = await Eye(cluster).poll(theirs=["orders"])
    assert expected.tracks[place(0)].lag.state is PartitionState.UNREACHABLE


async def test_a_group_that_its_coordinator_refuses():
    cluster = town()
    cluster.groups[THEIRS].error = 14  # it loads its groups
    picture = await Eye(cluster).poll(theirs=["orders"])
    assert picture.tracks[place(0)].lag.state is PartitionState.UNREACHABLE
    assert "load" in picture.tracks[place(0)].lag.reason


async def test_all_brokers_away():
    cluster = town()
    cluster.away = {1, 2}
    with pytest.raises(BusUnreachable):
        await Eye(cluster).poll()


async def test_a_group_that_should_read_and_never_committed():
    picture = await Eye(town()).poll(ours=["orders", "missing"])
    lag = picture.tracks[place(group="ours")].lag
    assert (lag.state, lag.records) == (PartitionState.NEVER_COMMITTED, None)
    missing = picture.tracks[place(group="ours", topic="missing")].lag
    assert missing == Lag(PartitionState.UNREACHABLE, reason="unknown_topic")


async def test_a_partition_that_a_group_never_committed_beside_others_counts():
    cluster = town()
    del cluster.groups[THEIRS].commits["orders", 1]
    picture = await Eye(cluster).poll()
    assert picture.tracks[place(1)].lag.state is PartitionState.NEVER_COMMITTED


async def test_behind_the_last_stable_offset_and_behind_the_last_record():
    open_ = (await Eye(town(committed=7, end=5, high=9)).poll()).tracks[place()]
    assert (open_.lag.records, open_.verdict) == (0, Verdict.OK)
    other = (await Eye(town(committed=70, end=5, high=9)).poll()).tracks[place()]
    assert other.verdict is Verdict.LOST


async def test_a_quick_reader_beside_a_retention_that_purges_what_was_read():
    """Starts before commits: else it would seem to have lost what it has read."""
    cluster = town(committed=5)

    def go_on(key: int) -> None:
        if key in (OFFSETS, COMMITS):
            log, commits = cluster.logs["orders"][0], cluster.groups[THEIRS].commits
            log.start, log.end = log.end, log.end + 10
            commits["orders", 0] = log.start  # all was read, and what was read is gone

    cluster.on_ask = go_on
    track = (await Eye(cluster).poll()).tracks[place()]
    assert track.lag.state is not PartitionState.LOST
    assert cluster.asked.index(OFFSETS) < cluster.asked.index(COMMITS)


async def test_a_quick_reader_is_never_ahead_of_the_end():
    """Commits before ends."""
    cluster = town(committed=9)

    def go_on(key: int) -> None:
        if key in (OFFSETS, COMMITS):
            cluster.logs["orders"][0].end += 10
            cluster.groups[THEIRS].commits["orders", 0] = cluster.logs["orders"][0].end

    cluster.on_ask = go_on
    track = (await Eye(cluster).poll()).tracks[place()]
    assert track.lag.state is PartitionState.OK
    assert track.verdict is not Verdict.LOST
    assert cluster.asked[-1] == OFFSETS


def starts_late(observer: Observer) -> None:
    """The mistake: starts are asked for after the commits."""
    right_starts, right_commits = observer._offsets.starts, observer._commits

    async def no_starts(cluster: Any) -> dict:
        return late

    async def commits_first(listing: Any, cluster: Any, expected: Any) -> Any:
        told = await right_commits(listing, cluster, expected)
        late.update(await right_starts(cluster))
        return told

    late: dict = {}
    observer._offsets.starts = no_starts  # type: ignore[method-assign]
    observer._commits = commits_first  # type: ignore[method-assign]


async def test_starts_that_are_asked_for_late_are_caught():
    cluster = town(committed=5)

    def go_on(key: int) -> None:
        if key in (OFFSETS, COMMITS):
            log, commits = cluster.logs["orders"][0], cluster.groups[THEIRS].commits
            log.start, log.end = log.end, log.end + 10
            commits["orders", 0] = log.start

    cluster.on_ask = go_on
    eye = Eye(cluster)
    starts_late(eye.observer)
    assert (await eye.poll()).tracks[place()].lag.state is PartitionState.LOST


async def test_keepings_as_the_cluster_tells_them():
    eye = Eye(town())
    cluster = await eye.observer.cluster()
    (keeping,) = (await eye.observer.keepings(["orders"], cluster)).values()
    assert keeping.retention_seconds == 168 * 3600


@pytest.mark.parametrize(
    ("group", "reader"),
    [
        (None, Reader.UNKNOWN),
        (Group("Empty", ""), Reader.UNKNOWN),  # it commits without being in the group
        (Group("Empty", "consumer"), Reader.GONE),
        (Group("Dead", "consumer"), Reader.GONE),
        (Group("Stable", "consumer"), Reader.ALIVE),
        (Group("PreparingRebalance", "consumer"), Reader.ALIVE),
    ],
)
def test_readers_by_their_groups_members(group, reader):
    assert reader_by_members(group) is reader
