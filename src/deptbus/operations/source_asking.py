"""What comes of one question to a source, as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deptbus.errors import DeptbusError, WireRefused
from deptbus.operations.source_told import Told
from deptbus.stream.log import LogReader
from deptbus.wire.control import decode_control

SIGN_SECONDS = 20.0  # a source that gives no sign of life for so long has stopped

NO_SIGN = "its adapter gives no sign: does it run?"
NOT_HERE = "none of its systems publishes this dataset"


class CouldNotTell(DeptbusError):
    """Neither equal nor different; `what` is the reason."""


class Interrupted(Exception):
    """The source's adapter has gone, or an answer has a hole: asked again, it may be told."""


class Asking:
    """What comes of one question. `begun` and `end` return when it has come so far; they raise
    CouldNotTell for a refusal and Interrupted when nothing comes any more."""

    def __init__(self, told: Told, reader: LogReader, systems: int) -> None:
        self.told = told
        self._reader, self._systems = reader, systems
        self._news = asyncio.Condition()
        self._failed: Exception | None = None

    async def listen(self) -> None:
        try:
            await self._listen()
        except (DeptbusError, Interrupted) as error:
            self._failed = error
        async with self._news:
            self._news.notify_all()

    async def _listen(self) -> None:
        clock = asyncio.get_running_loop().time
        heard = clock()
        while self.told.end is None:
            is_ours = False
            for record in await self._reader.poll(0.5):
                try:
                    said = decode_control(record.value)
                except WireRefused:
                    continue  # another record's fault; a hole in the answer shows by itself
                try:
                    is_ours = self.told.take(said, len(record.value or b"")) or is_ours
                except WireRefused as error:
                    raise Interrupted(error.what) from None
            if is_ours:
                heard = clock()
                async with self._news:
                    self._news.notify_all()
            if len(self.told.not_here) >= self._systems:
                raise CouldNotTell(NOT_HERE)
            if clock() - heard > SIGN_SECONDS:
                raise Interrupted(NO_SIGN)

    async def begun(self) -> None:
        await self._until(lambda: self.told.has_begun)
        if not self.told.has_begun:
            await self.end()  # raises: it has ended without a cut

    async def end(self) -> Told:
        await self._until(lambda: self.told.end is not None)
        assert self.told.end is not None
        if self.told.end.state == "refused":
            raise CouldNotTell(self.told.end.reason)
        return self.told

    async def _until(self, is_so: Callable[[], bool]) -> None:
        async with self._news:
            await self._news.wait_for(
                lambda: is_so() or self._failed is not None or self.told.end is not None
            )
        if self._failed is not None and not is_so():
            raise self._failed
