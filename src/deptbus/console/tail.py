"""Reads a small topic on from where it stopped, when asked to: for what changes seldom."""

from __future__ import annotations

from contextlib import suppress

from deptbus.connection import Connection
from deptbus.errors import DeptbusError
from deptbus.stream.log import LogReader, LogRecord


class Tail:
    """`more` any number of times, `stop` at the end; after an error it begins where it stood."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection, self._topic = connection, topic
        self._reader: LogReader | None = None
        self._topic_id: str | None = None
        self._next: dict[int, int] = {}

    async def more(self) -> tuple[list[LogRecord], bool]:
        """The records since the last call, and whether they are of another topic than those before,
        which was deleted and made again. Raises BusUnreachable, BusRefused."""
        try:
            if self._reader is None:
                reader = LogReader(self._connection, self._topic, from_offsets=self._next)
                await reader.start()
                self._reader = reader
            now = await self._reader.topic_id()
            before, self._topic_id = self._topic_id, now or self._topic_id
            if before is not None and self._topic_id != before:
                await self.stop()
                self._next.clear()
                records, _ = await self.more()
                return records, True
            records = await self._reader.read_to_end()
        except DeptbusError:
            await self.stop()
            raise
        for record in records:
            self._next[record.partition] = record.offset + 1
        return records, False

    async def stop(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(DeptbusError):
                await reader.stop()
