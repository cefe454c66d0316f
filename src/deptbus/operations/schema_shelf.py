"""Holds every schema of the bus, and who gets which: what the schema endpoint answers from.

Schemas never change, so what was read once is served also while the bus is away.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.contract.model import Policy
from deptbus.errors import BusRefused, DeptbusError, WireRefused
from deptbus.operations.schema_registry import Registry, Stored, stored
from deptbus.operations.unit_sheet import unit_sheets
from deptbus.stream.follow import TopicFollower
from deptbus.stream.log import LogRecord
from deptbus.stream.policies import PolicyFollower
from deptbus.stream.schemas import SCHEMA_KEY_BYTES
from deptbus.wire.guard import BAD_KEY, BAD_SCHEMA
from deptbus.wire.schema_text import parse_schema_text

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = (1.0, 60.0)  # where the bus is away; where it is none of ours


class _Schemas(TopicFollower):
    """Every schema whose id proves its text."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection, names.SCHEMAS)
        self.found: dict[int, Stored] = {}

    def take(self, records: list[LogRecord]) -> None:
        for record in records:
            reason = self._take(record)
            if reason:
                log.error("schema_refused", offset=record.offset, reason=reason)

    def _take(self, record: LogRecord) -> str:
        key, text = record.key or b"", record.value or b""
        if len(key) != SCHEMA_KEY_BYTES:
            return BAD_KEY
        number = int.from_bytes(key, "big")
        try:
            parse_schema_text(number, text)
        except WireRefused as error:
            return error.reason
        found = stored(number, text.decode())
        if found is None:
            return BAD_SCHEMA
        self.found[number] = found
        return ""


class SchemaShelf:
    """`run` until cancelled; `registry` at any time."""

    def __init__(self, connection: Connection) -> None:
        self._schemas = _Schemas(connection)
        self._policies = PolicyFollower(connection)
        self._is_read = False
        self._made: tuple[tuple[int, int], Registry] | None = None  # for so many schemas, a policy

    async def run(self) -> None:
        """A bus that is away is asked again for ever, one that is none of ours now and then."""
        try:
            for follower in (self._schemas, self._policies):
                await _started(follower)
            self._is_read = True
            await asyncio.Event().wait()
        finally:
            for follower in (self._schemas, self._policies):
                await follower.stop()

    def registry(self) -> Registry | None:
        """None: the bus was not read yet. Takes long once after each change of contract: not on an
        event loop."""
        if not self._is_read:
            return None
        history = self._policies.history()
        policy = history[max(history)] if history else None
        key = len(self._schemas.found), policy.number if policy is not None else 0
        if self._made is None or self._made[0] != key:
            self._made = key, _registry(list(self._schemas.found.values()), policy)
        return self._made[1]


def _registry(schemas: list[Stored], policy: Policy | None) -> Registry:
    if policy is None:
        return Registry(schemas)
    return Registry(schemas, unit_sheets(policy, datetime.now(UTC)), policy.contract.datasets)


async def _started(follower: TopicFollower) -> None:
    told = ""
    while True:
        try:
            await follower.start()
            return
        except DeptbusError as error:
            if error.what != told:
                log.warning("schemas_unreadable", topic=follower.topic, error=error.what)
            told = error.what
            is_refused = isinstance(error, BusRefused)
        await asyncio.sleep(_AGAIN_SECONDS[1 if is_refused else 0])
