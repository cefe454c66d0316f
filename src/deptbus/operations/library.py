"""Every policy that ever was in force, with what jobs ask of it: routing, digests, codecs."""

from __future__ import annotations

import structlog

from deptbus.change import Change
from deptbus.contract.model import Policy
from deptbus.errors import WireRefused
from deptbus.operations.due import Digests, digests_under_holds
from deptbus.operations.rights import rule_digests
from deptbus.routing import Router
from deptbus.stream.data import decode_data
from deptbus.stream.log import LogRecord
from deptbus.stream.policies import PolicyFollower
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import Marker
from deptbus.wire.guard import UNKNOWN_SCHEMA

log = structlog.get_logger(__name__)


class Library:
    """What belongs to a policy never changes, so it is made once and kept."""

    def __init__(self, policies: PolicyFollower) -> None:
        self._policies = policies
        self._routers: dict[int, Router] = {}
        self._plain: dict[int, Digests] = {}
        self._digests: dict[int, Digests] = {}
        # They know every schema that any contract released: what left the contract can still be
        # read and withdrawn.
        self.codecs = Codecs()
        self._learnt: set[int] = set()
        self._unwritten: dict[int, str] = {}
        self.learn()

    def numbers(self) -> list[int]:
        """Of all policies that can be read, ascending."""
        return sorted(self._policies.history())

    def policy(self, number: int) -> Policy:
        return self._policies.history()[number]

    def router(self, number: int) -> Router:
        if number not in self._routers:
            self.learn()
            self._routers[number] = Router(self.policy(number))
        return self._routers[number]

    def digests(self, number: int) -> Digests:
        """By rules, grants and holds."""
        if number not in self._digests:
            policy = self.policy(number)
            self._digests[number] = digests_under_holds(policy, self.numbers(), self._by_rules)
        return self._digests[number]

    def _by_rules(self, number: int) -> Digests:
        if number not in self._plain:
            self._plain[number] = rule_digests(self.policy(number))
        return self._plain[number]

    def learn(self) -> None:
        """Take in the schemas of contracts that came since."""
        for number in self.numbers():
            if number not in self._learnt:
                self._learnt.add(number)
                self._unwritten |= self.codecs.take_new_schemas()
                try:
                    self.codecs.add_contract(self.policy(number).contract)
                except WireRefused as error:
                    log.error("contract_schemas_refused", policy=number, reason=error.reason)
                # They are on the bus: whoever put the policy there wrote them first.
                self.codecs.take_new_schemas()

    def take_new_schemas(self) -> dict[int, str]:
        """Schemas of projections made since the last call (id -> canonical JSON): to be on the bus
        before the first record that uses them."""
        taken = self._unwritten | self.codecs.take_new_schemas()
        self._unwritten = {}
        return taken

    async def decode(self, record: LogRecord) -> Change | None:
        """The change in a record of a canonical topic, if it is one. Raises as `read`."""
        found = await self.read(record)
        return found if isinstance(found, Change) else None

    async def read(self, record: LogRecord) -> Change | Marker | None:
        """A record of a canonical topic. None for bytes that are neither: intake lets none
        through, so somebody else wrote them; they are told and left out. Raises BusUnreachable."""
        try:
            return decode_data(self.codecs, record.key, record.value)
        except WireRefused as error:
            reason = error.reason
        if reason == UNKNOWN_SCHEMA:
            await self._policies.refresh()  # a contract may have come that we have not heard of
            self.learn()
            try:
                return decode_data(self.codecs, record.key, record.value)
            except WireRefused as error:
                reason = error.reason
        log.error(
            "change_refused",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=reason,
        )
        return None
