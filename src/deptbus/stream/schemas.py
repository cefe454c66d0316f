"""The schemas that records on the bus are written in: followed into a Codecs, and written."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from deptbus.connection import Connection
from deptbus.errors import WireRefused
from deptbus.names import SCHEMAS
from deptbus.stream.follow import TopicFollower
from deptbus.stream.log import LogRecord, Outgoing, Sender
from deptbus.wire.codecs import Codecs
from deptbus.wire.guard import BAD_KEY

SCHEMA_KEY_BYTES = 4

log = structlog.get_logger(__name__)


class SchemaFollower(TopicFollower):
    """Feeds every schema of `bus.schemas` to a Codecs; see TopicFollower for start and stop.

    A schema is on the bus before the first record that uses it: who meets an unknown id calls
    `ensure` and decodes again; what is unknown then is refused.
    """

    def __init__(self, connection: Connection, codecs: Codecs) -> None:
        super().__init__(connection, SCHEMAS)
        self._codecs = codecs
        self._known: dict[int, bytes] = {}

    def take(self, records: list[LogRecord]) -> None:
        for record in records:
            key = record.key or b""
            if len(key) != SCHEMA_KEY_BYTES:  # no id, and perhaps a number that nobody can print
                log.error("schema_refused", offset=record.offset, reason=BAD_KEY)
                continue
            schema_id = int.from_bytes(key, "big")
            if self._add(schema_id, record.value or b""):
                self._known[schema_id] = record.value or b""

    def replace(self, codecs: Codecs) -> None:
        """Go on with the Codecs of another contract: it is given all that was read so far."""
        self._codecs = codecs
        for schema_id, text in self._known.items():
            self._add(schema_id, text)

    async def ensure(self, schema_id: int, deadline_seconds: float = 5.0) -> bool:
        """Whether the schema is on the bus; reads to the end when it is not yet known.

        Raises BusUnreachable when the end could not be read within the deadline.
        """
        if schema_id not in self._known:
            await self.refresh(deadline_seconds)
        return schema_id in self._known

    def _add(self, schema_id: int, text: bytes) -> bool:
        try:
            self._codecs.add_schema(schema_id, text)
        except WireRefused as error:
            log.error("schema_refused", schema_id=schema_id, reason=error.reason)
            return False
        return True


async def write_schemas(sender: Sender, schemas: Mapping[int, str]) -> None:
    """Store schemas (id -> canonical JSON); returns when they are acked. Ids are derived from the
    content, so that writing one again, by anybody, changes nothing."""
    await sender.send(
        [
            Outgoing(SCHEMAS, 0, schema_id.to_bytes(SCHEMA_KEY_BYTES, "big"), text.encode())
            for schema_id, text in schemas.items()
        ]
    )
