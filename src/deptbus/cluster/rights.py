"""Rights on the bus: who may read and write which topics, as Kafka ACLs, planned and then applied.

A unit reads and writes its own `out` and `control`, reads its own `in`, the contract and the
schemas, and nothing else: topics that it may not see look to it as if they did not exist.
Idempotent producing needs no right of the cluster (KIP-679).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from deptbus import names
from deptbus.cluster.admin import REQUEST_SECONDS, Admin
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusUnreachable

# The users of the broker (SCRAM, or the name of a certificate) that these rights are given to.
WORKER_USER = "deptbus-worker"
OPERATIONS_USER = "deptbus-operations"

SPREAD_SECONDS = 15.0

_ANY_HOST = "*"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """`user` may do `operation` on the topic or group `name`, or on all whose names begin so."""

    user: str
    kind: str  # topic, group
    name: str
    is_prefix: bool
    operation: str  # READ, WRITE, DESCRIBE_CONFIGS; the first two imply to see that it is there

    def __str__(self) -> str:
        star = "*" if self.is_prefix else ""
        return f"{self.user} {self.operation.lower()} {self.kind} {self.name}{star}"


@dataclass(frozen=True, slots=True)
class RightsPlan:
    give: tuple[Right, ...]
    take: tuple[Right, ...]

    @property
    def is_empty(self) -> bool:
        return not (self.give or self.take)

    def lines(self) -> list[str]:
        return [*(f"give {r}" for r in self.give), *(f"take {r}" for r in self.take)]


def user_of(unit: str) -> str:
    """The broker's user of a unit's adapter."""
    return names.unit_in_topic(unit)


def rights_for(contract: Contract) -> tuple[Right, ...]:
    """All rights that a bus under this contract needs, sorted."""
    rights = [*_worker(), *_operations()]
    for unit in contract.units:
        rights += _unit(unit.unit)
    return tuple(sorted(rights))


def plan(connection: Connection, wanted: Iterable[Right]) -> RightsPlan:
    """What to give and to take so that our users have `wanted`. Changes nothing.

    A broker that checks no rights looks like one on which nobody has any; `apply` finds out.
    """
    return decide(wanted, _read(Admin(connection)))


def _read(admin: Admin) -> set[Right]:
    any_one: Any = None  # what the client's stubs do not know of
    every = AclBindingFilter(
        ResourceType.ANY,
        any_one,
        ResourcePatternType.ANY,
        any_one,
        any_one,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    with admin.translated():
        found = admin.client.describe_acls(every, request_timeout=REQUEST_SECONDS).result(
            REQUEST_SECONDS
        )
    return {right for acl in found if (right := _right_of(acl)) is not None}


def decide(wanted: Iterable[Right], there: set[Right]) -> RightsPlan:
    """Pure part of `plan`. Rights of users that are not ours (admin, broker) are left alone."""
    want = set(wanted)
    take = {right for right in there - want if _is_ours(right.user)}
    return RightsPlan(tuple(sorted(want - there)), tuple(sorted(take)))


def apply(connection: Connection, todo: RightsPlan) -> None:
    """Gives first, then takes, so that nobody is without a right that he keeps. Idempotent.

    Returns when the broker that was asked knows them; all do after about a second. Raises
    BusRefused when the brokers check no rights.
    """
    admin = Admin(connection)
    if todo.give:
        admin.results(
            admin.client.create_acls(
                [_binding(right) for right in todo.give], request_timeout=REQUEST_SECONDS
            )
        )
    if todo.take:
        filters = [_filter(right) for right in todo.take]
        admin.results(admin.client.delete_acls(filters, request_timeout=REQUEST_SECONDS))
    _wait_until_known(admin, todo)
    log.info("rights_applied", given=len(todo.give), taken=len(todo.take))


def _wait_until_known(admin: Admin, todo: RightsPlan) -> None:
    deadline = time.monotonic() + SPREAD_SECONDS
    while True:
        there = _read(admin)
        if there.issuperset(todo.give) and there.isdisjoint(todo.take):
            return
        if time.monotonic() > deadline:
            raise BusUnreachable(
                f"the rights are not known to the brokers after {SPREAD_SECONDS:.0f} s",
                mend="Look whether the brokers are well, then apply again",
            )
        time.sleep(0.1)


def _unit(unit: str) -> list[Right]:
    user = user_of(unit)
    own = [names.out_topic(unit), names.control_topic(unit)]
    read = [*own, names.in_topic(unit), names.CONTRACT, names.SCHEMAS]
    # The dot at the end: housing-330106 is a prefix of housing-330106109.
    group = names.adapter_group(unit, "")
    return [
        *(Right(user, "topic", name, False, "WRITE") for name in own),
        *(Right(user, "topic", name, False, "READ") for name in read),
        Right(user, "group", group, True, "READ"),
    ]


def _worker() -> list[Right]:
    user = WORKER_USER
    return [
        *(Right(user, "topic", p, True, "READ") for p in ("out.", "control.", "data.", "bus.")),
        *(Right(user, "topic", p, True, "WRITE") for p in ("data.", "in.")),
        *(
            Right(user, "topic", name, False, "WRITE")
            for name in (names.QUARANTINE, names.AGENTS, names.SCHEMAS)
        ),
        Right(user, "group", names.WORKER_GROUP, False, "READ"),
    ]


def _operations() -> list[Right]:
    """Jobs, keeper, activation: it reads all, and writes what is not a department's own word."""
    user = OPERATIONS_USER
    prefixes = ("out.", "control.", "data.", "in.", "bus.")
    return [
        *(Right(user, "topic", p, True, "READ") for p in prefixes),
        *(Right(user, "topic", p, True, "WRITE") for p in ("data.", "in.", "bus.")),
        # An activation looks first whether every topic is there as the contract wants it.
        *(Right(user, "topic", p, True, "DESCRIBE_CONFIGS") for p in prefixes),
        Right(user, "group", "deptbus.", True, "READ"),
    ]


def _is_ours(user: str) -> bool:
    line, _, territory = user.rpartition("-")
    is_unit = names.UNIT.match(f"{line}@{territory}") is not None
    return is_unit or user in (WORKER_USER, OPERATIONS_USER)


_KINDS = {"topic": ResourceType.TOPIC, "group": ResourceType.GROUP}


def _binding(right: Right) -> AclBinding:
    return AclBinding(*_words(right))


def _filter(right: Right) -> AclBindingFilter:
    return AclBindingFilter(*_words(right))


def _words(right: Right) -> tuple[Any, ...]:
    return (
        _KINDS[right.kind],
        right.name,
        ResourcePatternType.PREFIXED if right.is_prefix else ResourcePatternType.LITERAL,
        f"User:{right.user}",
        _ANY_HOST,
        AclOperation[right.operation],
        AclPermissionType.ALLOW,
    )


def _right_of(acl: AclBinding) -> Right | None:
    """None for what we never give: denials, hosts, other kinds of resource."""
    kind = next((name for name, value in _KINDS.items() if value == acl.restype), None)
    if kind is None or acl.permission_type != AclPermissionType.ALLOW or acl.host != _ANY_HOST:
        return None
    operation: Any = acl.operation
    return Right(
        acl.principal.removeprefix("User:"),
        kind,
        acl.name,
        acl.resource_pattern_type == ResourcePatternType.PREFIXED,
        operation.name,
    )
