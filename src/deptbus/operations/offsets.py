"""Asks a cluster for its groups and offsets; what could not be told is a reason, never a number."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, for_code

from deptbus.errors import BusUnreachable
from deptbus.operations.offset_requests import (
    COMMITTED,
    EARLIEST,
    Cluster,
    Commits,
    Group,
    ask_cluster,
    ask_commits,
    ask_coordinators,
    ask_groups,
    ask_members,
    ask_offsets,
    ask_settings,
    cluster_told,
    commits_told,
    coordinators_told,
    groups_told,
    members_told,
    offsets_told,
    settings_told,
)
from deptbus.stream.brokers import translate

GROUPS_AT_ONCE = 250  # in one request: their answers are some hundred kilobytes
NO_MEMBERS = ("Empty", "Dead")  # states of a group
AWAY = "broker_away"
NO_TOPIC = "unknown_topic"
NO_LEADER = "no_leader"
NO_COORDINATOR = "coordinator_away"

Spot = tuple[str, int]  # topic, partition
Told = dict[Spot, int | str]  # an offset, or why there is none


class Listing(NamedTuple):
    groups: dict[str, Group]
    coordinators: dict[str, int]  # of each listed group
    is_whole: bool  # every broker answered


class Offsets:
    """Asks by way of a started client that somebody else owns. Every call goes to all brokers that
    it concerns at once; one that does not answer fails its own part."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def cluster(self) -> Cluster:
        """Raises BusUnreachable when no broker answers."""
        nodes = sorted(broker.nodeId for broker in self._client.cluster.brokers())
        for node in nodes:
            rest = await self._ask(node, ask_cluster())
            if rest is not None:
                cluster = cluster_told(rest)
                if set(cluster.brokers) - set(nodes):
                    await self._client.force_metadata_update()
                return cluster
        await self._client.force_metadata_update()
        raise BusUnreachable("no broker answers", mend="Is the bus running?")

    async def groups(self, brokers: Iterable[int]) -> Listing:
        nodes = list(brokers)
        answers = await asyncio.gather(*(self._ask(node, ask_groups()) for node in nodes))
        groups: dict[str, Group] = {}
        coordinators: dict[str, int] = {}
        is_whole = True
        for node, rest in zip(nodes, answers, strict=True):
            error, found = (1, {}) if rest is None else groups_told(rest)
            is_whole = is_whole and not error
            groups |= found
            coordinators |= dict.fromkeys(found, node)
        return Listing(groups, coordinators, is_whole)

    async def coordinators(self, groups: Iterable[str], brokers: Iterable[int]) -> dict[str, int]:
        """Of groups that no broker lists; those whose coordinator is away are left out."""
        asked = list(groups)
        found: dict[str, int] = {}
        if not asked:
            return found
        for node in brokers:
            rest = await self._ask(node, ask_coordinators(asked))
            if rest is not None:
                told = coordinators_told(rest)
                return {group: node for group, (error, node) in told.items() if not error}
        return found

    async def members(self, listing: Listing) -> dict[str, int]:
        """How many members each listed group has; without those of which nobody can tell. A group
        of the newer protocol (KIP-848) is dead to this question while its broker lists it."""
        found = {name: 0 for name, group in listing.groups.items() if group.state in NO_MEMBERS}
        parts = _by_node({g: n for g, n in listing.coordinators.items() if g not in found})
        answers = await asyncio.gather(*(self._ask(n, ask_members(groups)) for n, groups in parts))
        for rest in answers:
            told = {} if rest is None else members_told(rest)
            for group, (error, state, count) in told.items():
                if not error and state not in NO_MEMBERS:
                    found[group] = count
        return found

    async def commits(self, coordinators: Mapping[str, int]) -> dict[str, Commits | str]:
        """Of each group what it committed, or why nobody can tell."""
        parts = _by_node(coordinators)
        answers = await asyncio.gather(*(self._ask(n, ask_commits(groups)) for n, groups in parts))
        found: dict[str, Commits | str] = {}
        for (_, groups), rest in zip(parts, answers, strict=True):
            told = {} if rest is None else commits_told(rest)
            for group in groups:
                commits = told.get(group)
                if commits is None:
                    found[group] = NO_COORDINATOR
                else:
                    found[group] = reason_of(commits.error) if commits.error else commits
        return found

    async def offsets(
        self, spots: Iterable[Spot], cluster: Cluster, which: int, isolation: int = COMMITTED
    ) -> Told:
        """Where each partition begins (EARLIEST) or ends (LATEST)."""
        found: Told = {}
        by_node: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for topic, partition in spots:
            known = cluster.topics.get(topic)
            if known is None or partition >= len(known.leaders):
                found[topic, partition] = NO_TOPIC
            elif known.leaders[partition] < 0:
                found[topic, partition] = NO_LEADER
            else:
                by_node[known.leaders[partition]][topic].append(partition)
        asked = [(node, ask_offsets(places, which, isolation)) for node, places in by_node.items()]
        answers = await asyncio.gather(*(self._ask(node, request) for node, request in asked))
        for (_, places), rest in zip(by_node.items(), answers, strict=True):
            told = {} if rest is None else offsets_told(rest)
            for topic, partitions in places.items():
                for partition in partitions:
                    error, offset = told.get((topic, partition), (None, 0))
                    if error is None:
                        found[topic, partition] = AWAY
                    else:
                        found[topic, partition] = reason_of(error) if error else offset
        return found

    async def starts(self, cluster: Cluster) -> Told:
        """Of every partition that is not Kafka's own."""
        spots = [
            (name, partition)
            for name, topic in cluster.topics.items()
            if not topic.is_internal
            for partition in range(len(topic.leaders))
        ]
        return await self.offsets(spots, cluster, EARLIEST)

    async def settings(
        self, topics: Iterable[str], names: Sequence[str], cluster: Cluster
    ) -> dict[str, dict[str, str]]:
        """Of each topic; one of which they may not be known is left out."""
        for node in cluster.brokers:
            rest = await self._ask(node, ask_settings(topics, names))
            if rest is not None:
                return settings_told(rest)
        return {}

    async def _ask(self, node: int, request: Any) -> bytes | None:
        """What the broker answers; None when it does not. A refusal of this client's right to ask
        is raised as BusRefused."""
        try:
            answer = await self._client.send(node, request)
        except (OSError, TimeoutError):
            return None
        except KafkaError as error:
            refused = translate(error)
            if isinstance(refused, BusUnreachable):
                return None
            raise refused from error
        rest: bytes = answer.rest
        return rest


def _by_node(coordinators: Mapping[str, int]) -> list[tuple[int, list[str]]]:
    """Whom to ask for which groups at once."""
    by_node: dict[int, list[str]] = defaultdict(list)
    for group, node in coordinators.items():
        by_node[node].append(group)
    return [
        (node, groups[at : at + GROUPS_AT_ONCE])
        for node, groups in by_node.items()
        for at in range(0, len(groups), GROUPS_AT_ONCE)
    ]


def reason_of(code: int) -> str:
    """Kafka's word for it: `NotLeaderForPartitionError` is `not_leader_for_partition`."""
    name = re.sub(r"Error$", "", for_code(code).__name__)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
