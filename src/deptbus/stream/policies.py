"""The contract in force, as `bus.contract` tells it: history, followers, and how one is added."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import structlog
from pydantic import ValidationError

from deptbus.connection import Connection
from deptbus.contract.model import Contract, Hold, Policy
from deptbus.errors import ContractUnreadable, DeptbusError, WireRefused
from deptbus.metrics.counts import Counts
from deptbus.names import CONTRACT
from deptbus.stream.follow import TopicFollower
from deptbus.stream.log import LogRecord, Outgoing, Sender, read_to_end
from deptbus.stream.schemas import write_schemas
from deptbus.wire.codecs import Codecs
from deptbus.wire.control import PolicyRecord, decode_control, encode_control

log = structlog.get_logger(__name__)

LEASE_SECONDS = 10.0
PUT_BACK = (
    "Put the contract in force again that was: `deptbus contract activate DIR`; its number goes on"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PolicyHistory:
    """Every policy that ever was in force, built from the records of `bus.contract` in order.

    1. A record that is no PolicyRecord, or whose number is not the last number plus one, is
       refused: it changes nothing. Of two writers of one number the first counts.
    2. A record with the right number whose content cannot be read (damaged, or of a younger
       deptbus) counts: a newer policy is in force and we do not know it. Until a later one can be
       read nothing may be delivered, for a right may have ended with it.
    3. A topic begins with any number (`begin_anew`: it was deleted and made again), so long as none
       comes twice: recipients refuse deliveries under a number that lies behind the one that they
       know. Until its first record nothing is in force. What was there before stays known.
    """

    def __init__(self) -> None:
        self.policies: dict[int, Policy] = {}
        self.last = 0
        self.refused = 0
        self._begins = True  # the topic has given no policy yet

    def begin_anew(self) -> None:
        self._begins = True

    def take(self, value: bytes | None) -> str | None:
        """None when the record counts, else the constant reason for which it was refused."""
        try:
            record = decode_control(value)
        except WireRefused as error:
            return self._refuse(error.reason)
        if not isinstance(record, PolicyRecord):
            return self._refuse("not_a_policy")
        policy = _policy_of(record)
        # The last one again: a reader had begun on the new topic before it knew that it is another.
        is_known = self._begins and policy is not None and policy == self.policies.get(self.last)
        follows = record.policy == self.last + 1 or (self._begins and record.policy > self.last)
        if not (follows or is_known):
            return self._refuse("wrong_number")
        self._begins = False
        self.last = record.policy
        if policy is None:
            log.error("policy_unreadable", policy=record.policy)
        else:
            self.policies[policy.number] = policy
        return None

    def current(self) -> Policy:
        """Raises ContractUnreadable when none is in force, or the last one cannot be read."""
        if self._begins and self.last:
            raise ContractUnreadable(
                f"{CONTRACT} was deleted and made again: no contract is in force", mend=PUT_BACK
            )
        found = self.policies.get(self.last)
        if found is not None:
            return found
        if self.last == 0:
            raise ContractUnreadable(
                "no contract is in force on this bus",
                mend="Activate one with `deptbus contract activate DIR`",
            )
        raise ContractUnreadable(
            f"policy {self.last} cannot be read",
            mend="Upgrade deptbus here, or activate a contract again",
        )

    def _refuse(self, reason: str) -> str:
        self.refused += 1
        log.error("policy_refused", reason=reason, last=self.last)
        return reason


def _policy_of(record: PolicyRecord) -> Policy | None:
    try:
        contract = Contract.from_json(record.content)
        if contract.digest != record.digest:
            return None
        return Policy(
            number=record.policy,
            activated_at=_EPOCH + timedelta(microseconds=record.activated_at_us),
            activated_by=record.activated_by,
            contract=contract,
            holds=tuple(map(Hold.model_validate_json, record.holds)),
        )
    except (ValidationError, ValueError, OverflowError):
        return None


class PolicyFollower(TopicFollower):
    """The contract in force, never older than the lease; see TopicFollower for start and stop."""

    def __init__(self, connection: Connection, *, lease_seconds: float = LEASE_SECONDS) -> None:
        super().__init__(connection, CONTRACT)
        self._history = PolicyHistory()
        self._lease_seconds = lease_seconds

    def take(self, records: list[LogRecord]) -> None:
        for record in records:
            if self._history.take(record.value) is None:
                log.info("policy_learnt", policy=self._history.last, offset=record.offset)

    def made_again(self) -> None:
        self._history.begin_anew()
        log.error("contract_made_again", policy=self._history.last, mend=PUT_BACK)

    def current(self) -> Policy:
        """The policy in force. Raises ContractUnreadable when there is none, when it cannot be
        read, or when the last read that reached the end is older than the lease."""
        if self.age_seconds > self._lease_seconds:
            raise ContractUnreadable(
                f"the contract could not be read for {self._lease_seconds:.0f} s",
                mend=f"Is the bus running, and has this user the right to read {CONTRACT}?",
            )
        return self._history.current()

    def history(self) -> dict[int, Policy]:
        """Every policy that could be read, by number."""
        return dict(self._history.policies)

    async def at_least(self, number: int, deadline_seconds: float = LEASE_SECONDS) -> Policy:
        """The policy in force once its number is `number` or greater.

        Raises ContractUnreadable when that is not so within the deadline.
        """
        try:
            async with asyncio.timeout(deadline_seconds), self.changed:
                await self.changed.wait_for(lambda: self._history.last >= number)
        except TimeoutError:
            raise ContractUnreadable(
                f"policy {number} is not on the bus after {deadline_seconds:.0f} s"
            ) from None
        return self.current()


async def read_policies(connection: Connection) -> PolicyHistory:
    """The history as it stands now. Raises BusUnreachable, BusRefused."""
    history = PolicyHistory()
    for record in await read_to_end(connection, CONTRACT):
        history.take(record.value)
    return history


async def append_policy(connection: Connection, policy: Policy) -> None:
    """Put a policy in force: its schemas first, then the record, then look whether it counted.

    Raises DeptbusError when another activation was quicker, or when the number is not the next; an
    empty topic takes any.
    """
    history = await read_policies(connection)
    _check_next(history, policy)
    async with Sender(connection) as sender:
        await write_schemas(sender, Codecs(policy.contract).schemas())
        record = PolicyRecord(
            policy=policy.number,
            digest=policy.contract.digest,
            activated_at_us=(policy.activated_at - _EPOCH) // timedelta(microseconds=1),
            activated_by=policy.activated_by,
            content=policy.contract.to_json(),
            holds=tuple(hold.model_dump_json() for hold in policy.holds),
        )
        await sender.send([Outgoing(CONTRACT, 0, None, encode_control(record))])
    found = (await read_policies(connection)).policies.get(policy.number)
    if found is None or found != policy:
        raise DeptbusError(
            f"another activation made policy {policy.number} first",
            mend="Look at it with `deptbus contract show`, then activate again",
        )


def _check_next(history: PolicyHistory, policy: Policy) -> None:
    if history.last and policy.number != history.last + 1:
        raise DeptbusError(
            f"policy {policy.number} cannot follow policy {history.last}",
            mend="Activate again: another activation was quicker",
        )


def tell_policy(counts: Counts, follower: PolicyFollower) -> None:
    """For metrics; to be called again and again, or it is not known any more."""
    number: int | None = None
    with suppress(ContractUnreadable):
        number = follower.current().number
    counts.tell("deptbus_policy_number", (), number)
