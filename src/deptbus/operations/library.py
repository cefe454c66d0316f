"""Every policy that ever was in force, with what jobs ask of it: routing, digests, codecs."""

from __future__ import annotations

import structlog

from deptbus.change import Change
from deptbus.errors import WireRefused
from deptbus.operations.due import Digests
from deptbus.operations.rights import rule_digests
from deptbus.routing import Router
from deptbus.stream.log import LogRecord
from deptbus.stream.policies import PolicyFollower
from deptbus.stream.schemas import SchemaFollower
from deptbus.wire.codecs import Codecs

log = structlog.get_logger(__name__)


class Library:
    """What belongs to a policy never changes, so it is made once and kept."""

    def __init__(self, policies: PolicyFollower) -> None:
        self._policies = policies
        self._routers: dict[int, Router] = {}
        self._digests: dict[int, Digests] = {}
        self._codecs: dict[int, Codecs] = {}

    def numbers(self) -> list[int]:
        """Of all policies that can be read, ascending."""
        return sorted(self._policies.history())

    def router(self, number: int) -> Router:
        if number not in self._routers:
            self._routers[number] = Router(self._policies.history()[number])
        return self._routers[number]

    def digests(self, number: int) -> Digests:
        if number not in self._digests:
            self._digests[number] = rule_digests(self._policies.history()[number])
        return self._digests[number]

    def codecs(self, number: int, dataset: str, schema_version: int) -> Codecs:
        """Those of the youngest contract up to policy `number` that knows this schema: a dataset
        that left the contract can still be withdrawn."""
        name = f"{dataset}.v{schema_version}"
        history = self._policies.history()
        for known in sorted((n for n in history if n <= number), reverse=True):
            contract = history[known].contract
            if name in contract.schemas and dataset in contract.datasets:
                if known not in self._codecs:
                    self._codecs[known] = Codecs(contract)
                return self._codecs[known]
        raise WireRefused("unknown_schema", f"no contract has the schema {name}")

    def newest_codecs(self) -> Codecs:
        """Codecs of the youngest contract, not shared with `codecs`: for whoever only decodes."""
        history = self._policies.history()
        return Codecs(history[max(history)].contract)

    def take_new_schemas(self) -> dict[int, str]:
        """Schemas of projections that were used since the last call: id -> canonical JSON."""
        return {k: text for c in self._codecs.values() for k, text in c.take_new_schemas().items()}


class ChangeReader:
    """Decodes records of canonical topics, whatever contract they were written under."""

    def __init__(self, codecs: Codecs, schemas: SchemaFollower) -> None:
        self._codecs = codecs
        self._schemas = schemas

    async def decode(self, record: LogRecord) -> Change | None:
        """None for bytes that are no change: intake lets none through, so somebody else wrote
        them; they are told and left out. Raises BusUnreachable."""
        try:
            return self._decode(record)
        except WireRefused as error:
            reason = error.reason
        value = record.value or b""
        if reason == "unknown_schema" and await self._schemas.ensure(
            int.from_bytes(value[1:5], "big")
        ):
            try:
                return self._decode(record)
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

    def _decode(self, record: LogRecord) -> Change:
        if record.value is None:
            raise WireRefused("no_value", "a canonical topic holds no null values")
        return self._codecs.decode_change(record.key, record.value)
