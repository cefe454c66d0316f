"""Answers the questions of the data office for proofs, beside publisher and applier of a system.

A question comes through every partition of the inbox and perhaps again: it is answered once by each
start of the adapter. One answer at a time is made; whoever asks has a deadline and asks anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import structlog

from deptbus import names
from deptbus.errors import DeptbusError
from deptbus.stream.log import Outgoing, Sender
from deptbus.wire.control import (
    ProofAnswer,
    ProofPart,
    ProofRequest,
    ProofRows,
    encode_control,
    key_of,
)
from deptbus.wire.control_proof import Leg

SIGN_SECONDS = 2.0  # so often the office hears that an answer is being made
_REMEMBERED = 1000

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Reply:
    """One answer in the making: `part` and `rows` as they come, then `end` once."""

    request: ProofRequest
    unit: str
    system: str
    sender: Sender
    parts: int = 0

    async def part(
        self, kind: Literal["leaves", "sketch", "root", "items"], content: bytes
    ) -> None:
        """`content`: well below the cap of a record. Raises BusUnreachable, BusRefused."""
        await self._send(ProofPart(*self._head(), self.parts, kind, content))
        self.parts += 1

    async def rows(self, rows: list[tuple[bytes, str, int, bytes, bytes, str, str]]) -> None:
        """(key, state, version, digest, seen, fields, reason) of each; some hundreds at a time."""
        if rows:
            await self._send(ProofRows(*self._head(), self.parts, *zip(*rows, strict=True)))
            self.parts += 1

    async def end(
        self,
        state: Literal["working", "done", "refused", "not_here"] = "done",
        reason: str = "",
        *,
        rows: int = 0,
        applied: tuple[int, ...] = (),
        floors: tuple[int, ...] = (),
        counts: Mapping[str, int] | None = None,
        snapshot_at_us: int = 0,
    ) -> None:
        found = counts or {}
        answer = ProofAnswer(
            *self._head(),
            state,
            reason,
            self.parts,
            rows,
            applied,
            floors,
            tuple(found),
            tuple(found.values()),
            snapshot_at_us,
            time.time_ns() // 1000,
        )
        await self._send(answer)

    def _head(self) -> tuple[str, str, str, Leg, str]:
        asked = self.request
        return asked.request, self.unit, self.system, asked.leg, asked.dataset

    async def clear(self, parts: int) -> None:
        """Give the room of an answer that was read back."""
        head = self._head()
        for number in range(parts):
            await self._send(ProofPart(*head, number, "cleared", b""))

    async def _send(self, record: ProofAnswer | ProofPart | ProofRows) -> None:
        topic = names.control_topic(self.unit)
        await self.sender.send([Outgoing(topic, 0, key_of(record), encode_control(record))])


Answer = Callable[[Reply], Awaitable[None]]


class ProofDesk:
    """`take` questions as they come; `run` answers them until it is cancelled.

    `legs`: who answers for which leg; it sends all parts and the end. What it raises of
    DeptbusError is told to the office as a refusal. A leg that nobody answers for is not here.
    """

    def __init__(self, unit: str, system: str, sender: Sender, legs: Mapping[Leg, Answer]) -> None:
        self._unit, self._system, self._sender = unit, system, sender
        self._legs = legs
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._waiting: asyncio.Queue[ProofRequest] = asyncio.Queue()
        self._parts: dict[tuple[Leg, str], int] = {}  # which lie in `control`, as far as known
        self._log = log.bind(unit=unit, system=system)

    def take(self, request: ProofRequest) -> None:
        name = f"{request.request}/{request.wanted}"
        if name in self._seen or request.expires_at_us < time.time_ns() // 1000:
            return
        self._seen[name] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        self._waiting.put_nowait(request)

    async def run(self) -> None:
        while True:
            request = await self._waiting.get()
            try:
                await self._answer(request)
            except DeptbusError as error:
                # The bus itself fails: the office asks again, which is another question to us.
                self._seen.pop(f"{request.request}/{request.wanted}", None)
                self._log.warning("proof_interrupted", dataset=request.dataset, error=error.what)

    async def _answer(self, request: ProofRequest) -> None:
        reply = Reply(request, self._unit, self._system, self._sender)
        slots = request.leg, request.dataset
        if request.wanted == "done":
            await reply.clear(self._parts.pop(slots, 0))
            return
        answer = self._legs.get(request.leg)
        if answer is None:
            await reply.end("not_here")
            return
        signs = asyncio.create_task(self._give_signs(reply))
        try:
            async with asyncio.timeout(request.expires_at_us / 1e6 - time.time()):
                await answer(reply)
        except TimeoutError:
            self._log.warning("proof_too_late", dataset=request.dataset)
        except DeptbusError as error:
            self._log.warning("proof_refused", dataset=request.dataset, error=error.what)
            await reply.end("refused", error.what)
        finally:
            self._parts[slots] = max(reply.parts, self._parts.get(slots, 0))
            signs.cancel()
            await asyncio.gather(signs, return_exceptions=True)

    async def _give_signs(self, reply: Reply) -> None:
        while True:
            await reply.end("working")
            await asyncio.sleep(SIGN_SECONDS)
