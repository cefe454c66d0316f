"""Follows a small topic: holds all that it says, and knows how old that knowledge is."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable
from deptbus.stream.log import LogReader, LogRecord

log = structlog.get_logger(__name__)

_IDLE_SECONDS = 1.0  # at least so often the end is asked for, which is what proves freshness
_BACKOFF_SECONDS = (0.2, 2.0)
_TOLD_SECONDS = 60.0  # what was told is told again no sooner, however often it comes and goes


class TopicFollower:
    """Reads one topic from its beginning and then for ever.

    `start` returns when the topic was read to its end once (raises BusUnreachable, BusRefused);
    from then on an unreachable bus is retried with back-off until `stop`. Subclasses take records
    in `take`, which must not raise. A topic that was deleted and made again is read from its
    beginning, after a call of `made_again`: an old position lies somewhere in the midst of it.
    """

    def __init__(self, connection: Connection, topic: str) -> None:
        self._connection = connection
        self.topic = topic
        self._reader: LogReader | None = None
        self._next: dict[int, int] = {}  # partition -> first offset not taken yet
        self._topic_id: str | None = None  # of the topic that those count in
        self._task: asyncio.Task[None] | None = None
        self._read_at = float("-inf")
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self.changed = asyncio.Condition()  # notified after records were taken

    def take(self, records: list[LogRecord]) -> None:
        raise NotImplementedError

    def made_again(self) -> None:
        """What was taken so far came from another topic of this name."""
        log.warning("followed_topic_made_again", topic=self.topic)

    async def start(self) -> None:
        await self._read()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for waiter in self._waiters:
            waiter.cancel()
        await self._close()

    @property
    def read_at(self) -> float:
        """When the last read that reached the end was begun, by the event loop's clock."""
        return self._read_at

    @property
    def age_seconds(self) -> float:
        """How long ago that was."""
        return asyncio.get_running_loop().time() - self._read_at

    async def refresh(self, deadline_seconds: float = 5.0) -> None:
        """Returns when a read that began after this call reached the end.

        Raises BusUnreachable when that did not happen within the deadline.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        try:
            async with asyncio.timeout(deadline_seconds):
                await waiter
        except TimeoutError:
            raise BusUnreachable(f"{self.topic} could not be read to its end in time") from None

    async def _follow(self) -> None:
        pause = _BACKOFF_SECONDS[0]
        told, told_at = "", float("-inf")
        clock = asyncio.get_running_loop().time
        while True:
            try:
                await self._idle()
                await self._read()
                pause = _BACKOFF_SECONDS[0]
            except (BusUnreachable, BusRefused) as error:
                if error.what != told or clock() - told_at > _TOLD_SECONDS:
                    log.warning("topic_unreadable", topic=self.topic, error=error.what)
                    told, told_at = error.what, clock()
                await self._close()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACKOFF_SECONDS[1])

    async def _idle(self) -> None:
        """Wait for records, for somebody who asks, or for the time when the end is due."""
        if self._reader is None or self._waiters:
            return
        self._wake.clear()
        came = asyncio.ensure_future(self._reader.poll(_IDLE_SECONDS))
        asked = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((came, asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
            # A poll that is cancelled has taken nothing: it takes records only when it returns.
            came.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait((came,))
        if not came.cancelled():
            await self._took(came.result())

    async def _read(self) -> None:
        waiters, self._waiters = self._waiters, []
        try:
            reader = await self._opened()
            if await self._is_another(reader):
                await self._close()
                self._next.clear()
                self.made_again()
                reader = await self._opened()
            begun = asyncio.get_running_loop().time()
            await self._took(await reader.read_to_end())
        except BaseException:
            self._waiters += waiters
            raise
        self._read_at = begun
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _opened(self) -> LogReader:
        if self._reader is None:
            reader = LogReader(self._connection, self.topic, from_offsets=self._next)
            await reader.start()
            self._reader = reader
        return self._reader

    async def _is_another(self, reader: LogReader) -> bool:
        """Whether the topic is another one than at the last call."""
        before, now = self._topic_id, await reader.topic_id()
        self._topic_id = now or before
        return before is not None and self._topic_id != before

    async def _took(self, records: list[LogRecord]) -> None:
        if not records:
            return
        for record in records:
            self._next[record.partition] = record.offset + 1
        self.take(records)
        async with self.changed:
            self.changed.notify_all()

    async def _close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()
