"""The bus as lists: topics, committed offsets, policies and the board of jobs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from typing import Any

from deptbus.contract.model import Policy
from deptbus.operations.due import Digests, digests_under_holds
from deptbus.operations.replay_orders import Orders
from deptbus.operations.rights import rule_digests
from deptbus.routing import Router
from deptbus.stream.delivery import Carrier
from deptbus.stream.log import LogRecord, Outgoing
from deptbus.wire.control import Incarnated, JobProgress, OrderProgress

from .county import CODECS

DigestsOf = Callable[[Policy, Iterable[int], Callable[[int], Digests]], Digests]


class Bus:
    """Everything in it is durable; an append is atomic."""

    def __init__(
        self, router_kind: type[Router], digests_of: DigestsOf = digests_under_holds
    ) -> None:
        # By offset; compaction leaves holes.
        self.topics: dict[str, list[LogRecord | None]] = defaultdict(list)
        self.committed: dict[tuple[str, str], int] = defaultdict(int)  # (group, topic)
        self.incarnated: dict[str, list[Incarnated]] = defaultdict(list)  # unit -> control records
        self.published: dict[str, int] = defaultdict(int)  # unit -> highest publication
        self.highest: dict[str, int] = defaultdict(int)  # unit -> highest version
        self.mangled: set[tuple[str, int]] = set()  # (topic, offset)
        self.kept = 0  # the canonical topic's end when the last run of the keeper began
        self.jobs: dict[str, JobProgress] = {}
        self.orders = Orders()
        self.policies: dict[int, Policy] = {}
        self._router_kind = router_kind
        self._routers: dict[int, Router] = {}
        self._carriers: dict[int, Carrier] = {}
        self._digests_of = digests_of
        self._plain: dict[int, Digests] = {}
        self._digests: dict[int, Digests] = {}

    def append(self, outgoing: Outgoing) -> int:
        log = self.topics[outgoing.topic]
        log.append(LogRecord(outgoing.topic, 0, len(log), 0, outgoing.key, outgoing.value))
        return len(log) - 1

    def mangle(self, topic: str, offset: int) -> None:
        """Bytes that nobody can read: intake has to refuse them."""
        record = self.record(topic, offset)
        self.mangled.add((topic, offset))
        self.topics[topic][offset] = record._replace(value=(record.value or b"")[:-1])

    def record(self, topic: str, offset: int) -> LogRecord:
        found = self.topics[topic][offset]
        assert found is not None
        return found

    def read(self, topic: str, position: int, limit: int) -> list[LogRecord]:
        """At most `limit` records from `position` on; go on behind the last one's offset."""
        behind = (r for r in islice(self.topics[topic], position, None) if r is not None)
        return list(islice(behind, limit))

    def compact(self, topic: str, end: int) -> None:
        """Before `end` only the last record of each key is kept, whatever its version."""
        last = {r.key: n for n, r in enumerate(self.topics[topic][:end]) if r is not None}
        kept = set(last.values())
        self.topics[topic][:end] = [
            r if n in kept else None for n, r in enumerate(self.topics[topic][:end])
        ]

    def end(self, topic: str) -> int:
        return len(self.topics[topic])

    # -- policies ---------------------------------------------------------------------------------

    def activate(self, policy: Policy) -> None:
        number = max(self.policies, default=0) + 1
        self.policies[number] = policy.model_copy(update={"number": number})

    @property
    def newest(self) -> Policy:
        return self.policies[max(self.policies)]

    def router(self, number: int) -> Router:
        if number not in self._routers:
            self._routers[number] = self._router_kind(self.policies[number])
        return self._routers[number]

    def carrier(self, number: int) -> Carrier:
        """One for all agents: what it remembers is of the policy, not of an agent."""
        if number not in self._carriers:
            self._carriers[number] = Carrier(self.router(number), CODECS)
        return self._carriers[number]

    def digests(self, number: int) -> Digests:
        if number not in self._digests:
            policy = self.policies[number]
            self._digests[number] = self._digests_of(policy, self.policies, self._by_rules)
        return self._digests[number]

    def _by_rules(self, number: int) -> Digests:
        if number not in self._plain:
            self._plain[number] = rule_digests(self.policies[number])
        return self._plain[number]

    def report(self, progress: JobProgress, **changes: Any) -> JobProgress:
        found = replace(progress, **changes)
        self.jobs[found.job] = found
        return found

    def report_order(self, progress: OrderProgress, **changes: Any) -> OrderProgress:
        found = replace(progress, **changes)
        self.orders.take(found)
        return found
