"""Asks the adapters of a unit for what its copies are, and gathers what they answer.

1. A question goes into every partition of the inbox, one that names rows into the first at first;
   and again every few seconds under the same name until somebody answers: an adapter that starts in
   between has not heard it.
2. Each system of the unit answers for itself; one that does not receive the dataset says so.
3. An answer counts when its end has come and every part that the end counts. An adapter that begins
   anew sends all of it anew.
4. A system that gives no sign for SILENCE_SECONDS is silent, and the answer is "could not tell".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Self

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import BusRefused, BusUnreachable, WireRefused
from deptbus.proof.item import ITEM_BYTES
from deptbus.proof.leaves import Leaves
from deptbus.proof.sketch import Sketch
from deptbus.stream.log import LogReader, Outgoing, Sender, end_offsets
from deptbus.wire.control import (
    Control,
    ProofAnswer,
    ProofPart,
    ProofRequest,
    ProofRows,
    decode_control,
    encode_control,
)

SILENCE_SECONDS = 15.0
_AGAIN_SECONDS = 4.0


@dataclass(slots=True)
class Answered:
    """What one system answered."""

    system: str
    end: ProofAnswer | None = None
    parts: dict[int, ProofPart | ProofRows] = field(default_factory=dict)
    size: int = 0  # bytes
    heard: float = 0.0  # monotonic seconds
    problem: str = ""

    def take(self, record: ProofAnswer | ProofPart | ProofRows, size: int) -> None:
        self.size += size
        if not isinstance(record, ProofAnswer):
            self.parts[record.part] = record
        elif record.state == "refused":
            self.problem = record.reason
        elif record.state != "working":
            self.end = record

    @property
    def is_whole(self) -> bool:
        return self.end is not None and all(n in self.parts for n in range(self.end.parts))

    @property
    def is_here(self) -> bool:
        return self.end is not None and self.end.state == "done"

    def content(self, kind: str) -> bytes | None:
        return next((p.content for p in self._parts() if p.kind == kind), None)

    def leaves(self) -> Leaves:
        """Raises ValueError, as `sketch`, for an answer that is none."""
        return Leaves.from_bytes(self.content("leaves") or b"")

    def sketch(self) -> Sketch:
        return Sketch.from_bytes(self.content("sketch") or b"")

    def items(self) -> set[bytes]:
        """`item_bytes` of each. Raises ValueError for bytes that are none."""
        found: set[bytes] = set()
        for part in self._parts():
            if part.kind == "items":
                if len(part.content) % ITEM_BYTES:
                    raise ValueError("items are cut short")
                starts = range(0, len(part.content), ITEM_BYTES)
                found.update(part.content[at : at + ITEM_BYTES] for at in starts)
        return found

    def rows(self) -> Iterable[ProofRows]:
        return (p for _, p in sorted(self._counted()) if isinstance(p, ProofRows))

    def _parts(self) -> Iterable[ProofPart]:
        return (p for _, p in sorted(self._counted()) if isinstance(p, ProofPart))

    def _counted(self) -> list[tuple[int, ProofPart | ProofRows]]:
        assert self.end is not None
        return [(n, part) for n, part in self.parts.items() if n < self.end.parts]


class Asking:
    """`ask` one question after the other. A context manager; at its end the answers may go."""

    def __init__(
        self, connection: Connection, sender: Sender, unit: str, systems: Iterable[str]
    ) -> None:
        self._connection, self._sender = connection, sender
        self._unit, self._systems = unit, tuple(systems)
        self._reader: LogReader | None = None
        self._last: ProofRequest | None = None
        self.bytes_asked = 0

    async def __aenter__(self) -> Self:
        topic = names.control_topic(self._unit)
        ends = dict(enumerate(await end_offsets(self._connection, topic)))
        self._reader = LogReader(self._connection, topic, from_offsets=ends)
        await self._reader.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.stop()
        if self._last is not None:
            expires_at_us = time.time_ns() // 1000 + 60_000_000
            done = replace(self._last, wanted="done", expires_at_us=expires_at_us)
            with suppress(BusUnreachable, BusRefused):  # the next answer takes those slots anyway
                await self._send(done)

    async def ask(
        self, request: ProofRequest, systems: Iterable[str] | None = None
    ) -> dict[str, Answered]:
        """System -> its answer; with `problem` where there is none. `systems`: who has to answer
        (all, unless given). Raises BusUnreachable, BusRefused."""
        clock = asyncio.get_running_loop().time
        found = {s: Answered(s, heard=clock()) for s in systems or self._systems}
        self._last = request
        sent_at = -_AGAIN_SECONDS
        while waiting := [a for a in found.values() if not a.is_whole and not a.problem]:
            if clock() - sent_at >= _AGAIN_SECONDS:
                await self._send(request, is_first=sent_at < 0)
                sent_at = clock()
            await self._listen(request, found, clock())
            is_late = time.time_ns() // 1000 > request.expires_at_us
            for answered in waiting:
                if is_late:
                    answered.problem = "its adapter did not answer in time"
                elif clock() - answered.heard > SILENCE_SECONDS:
                    answered.problem = "its adapter gives no sign: is it running?"
        return found

    async def _listen(self, request: ProofRequest, found: dict[str, Answered], now: float) -> None:
        assert self._reader is not None
        for record in await self._reader.poll(0.2):
            said = _proof_record(record.value)
            if said is None or said.request != request.request or said.unit != self._unit:
                continue
            answered = found.get(said.system)
            if answered is not None:
                answered.take(said, len(record.value or b""))
                answered.heard = now

    async def _send(self, request: ProofRequest, *, is_first: bool = False) -> None:
        topic, value = names.in_topic(self._unit), encode_control(request)
        is_large = bool(request.keys or request.leaves)
        count = 1 if is_first and is_large else await self._sender.partitions(topic)
        self.bytes_asked += count * len(value)
        await self._sender.send([Outgoing(topic, number, None, value) for number in range(count)])


def _proof_record(value: bytes | None) -> ProofAnswer | ProofPart | ProofRows | None:
    try:
        found: Control = decode_control(value)
    except WireRefused:
        return None  # another record's fault; a hole in the answer shows by itself
    return found if isinstance(found, ProofAnswer | ProofPart | ProofRows) else None
