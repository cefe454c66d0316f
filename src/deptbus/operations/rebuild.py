"""Rebuilds one recipient's copy of a dataset from nothing: a second copy, proved, then swapped.

1. The adapter is told to begin, in every partition of its inbox. Only then are the ends of the
   canonical topic taken: of what lies behind them the delivery lies behind the beginning, and the
   adapter applies it to both copies.
2. Every key's last state goes through the inbox, by the rights of that moment, as in any replay.
3. The second copy is proved against the canonical topic, real rows and all. Rows that are parked or
   claimed there are the recipient's own matter; any other difference ends the rebuild, and the
   copy in use stays as it is.
4. Only then the adapter is told to swap, and behind which offsets; what it says of it closes the
   order. From the proof on, both copies get the same deliveries in the same transactions, so equal
   they stay.
5. Whoever takes an order up again does all of it again but what is sent and acked; the adapter
   knows jobs by their names, and begins, swaps and drops once.
6. An order that is given up has its second copy dropped. Once a swap was ordered, only the adapter
   can say what came of it, and the order stays open until it does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import structlog

from deptbus import names
from deptbus.connection import Connection
from deptbus.errors import WireRefused
from deptbus.operations.reconcile_classes import Class
from deptbus.operations.reconcile_copy import CopyProved, prove_copy
from deptbus.operations.replay_job import OrderedJob, OrderRefused, State
from deptbus.operations.replay_orders import DueOrder
from deptbus.stream.log import LogReader, Outgoing, end_offsets
from deptbus.wire.control import RebuildOrder, RebuildTold, decode_control, encode_control

if TYPE_CHECKING:
    from deptbus.operations.office import Office

log = structlog.get_logger(__name__)

# Everything up to the end, wherever that is when the partition's turn comes.
WHOLE = 2**62
SWAP_ORDERED = "swap"  # the place at work, in the progress
NOT_HERE_SECONDS = 15.0
_LOOK_SECONDS = 0.5

AWAITED = "waits for the unit's adapter: is it running?"
PROVING = "the second copy is being proved"
SWAPPING = "the adapter swaps"
NOT_HERE = "none of the unit's systems receives this dataset"
DROPPED = "its second copy was dropped at the recipient"
# What keeps a row out of any copy, the one in use too.
ITS_OWN = frozenset({Class.PARKED, Class.CLAIMED})


class RebuildJob(OrderedJob):
    def __init__(self, due: DueOrder, office: Office, connection: Connection) -> None:
        super().__init__(due, office.tools, office.jobs.orders, connection, office.policies)
        self._office = office
        (self._dataset,) = due.order.datasets
        self._told: dict[str, RebuildTold] = {}  # of this job, by system

    async def _carry_out(self) -> None:
        topic = names.control_topic(self.order.unit)
        async with LogReader(self._connection, topic) as reader:
            await self._listen(reader)
            if not self._is_over():
                await self._say("begin")
                await self._until_begun(reader)
                await super()._carry_out()
            await self._until_swapped(reader)

    async def _until_begun(self, reader: LogReader) -> None:
        """Some system makes a second copy. Raises OrderRefused."""
        began = time.monotonic()
        while not self._here():
            if self._told and time.monotonic() - began > NOT_HERE_SECONDS:
                raise OrderRefused(NOT_HERE)
            await self._wait(AWAITED)
            await self._listen(reader)

    async def _until_swapped(self, reader: LogReader) -> None:
        while True:
            await self._listen(reader)
            here = self._here()
            refused = [told for told in here.values() if told.state == "refused"]
            if refused:
                raise OrderRefused(f"{refused[0].system}: {refused[0].reason}")
            if any(told.state == "dropped" for told in here.values()):
                raise OrderRefused(DROPPED)
            if self._is_over():
                return
            if any(told.state == "filling" for told in here.values()):
                await self._prove_and_swap()
            await self._wait(SWAPPING)

    async def _prove_and_swap(self) -> None:
        """Raises OrderRefused when it is not equal; returns without a swap when nobody can tell."""
        await self._report("waiting", PROVING)
        proved = await prove_copy(
            self._office,
            self._connection,
            self.order.unit,
            self._dataset,
            deep=True,
            second=True,
        )
        why = untold(proved)
        if why:
            await self._wait(f"the second copy could not be proved: {why}")
            return
        faults = faults_of(proved)
        if faults:
            words = ", ".join(f"{count} {word}" for word, count in sorted(faults.items()))
            raise OrderRefused(f"the second copy is not what it should be: {words}")
        ends = await end_offsets(self._connection, names.in_topic(self.order.unit))
        self.progress = replace(self.progress, place=SWAP_ORDERED)
        await self._report("waiting", SWAPPING)
        await self._say("swap", tuple(ends))

    # -- the end -----------------------------------------------------------------------------------

    async def _give_up(self, state: State, problem: str = "") -> None:
        """Rule 6."""
        await self._say("drop")
        if self.progress.place == SWAP_ORDERED:
            topic = names.control_topic(self.order.unit)
            async with LogReader(self._connection, topic) as reader:
                await self._listen(reader)
                while any(told.state in ("filling", "swapping") for told in self._here().values()):
                    await self._wait("a swap was ordered already; the adapter will say whether")
                    await self._listen(reader)
        if self._is_over():
            await self._close("done")
        else:
            await self._close(state, problem)

    def _outcome(self) -> tuple[str, ...]:
        return tuple(
            f"{system}: {name} {count}"
            for system, told in sorted(self._here().items())
            for name, count in zip(told.names, told.counts, strict=True)
        )

    # -- the adapter -------------------------------------------------------------------------------

    def _here(self) -> Mapping[str, RebuildTold]:
        return {s: told for s, told in self._told.items() if told.state != "not_here"}

    def _is_over(self) -> bool:
        here = self._here()
        return bool(here) and all(told.state == "swapped" for told in here.values())

    async def _say(
        self, action: Literal["begin", "swap", "drop"], ends: tuple[int, ...] = ()
    ) -> None:
        """A beginning in every partition; the rest in the first one, so that the later word counts
        there."""
        order = RebuildOrder(self.order.job, self._dataset, action, ends, time.time_ns() // 1000)
        topic, sender = names.in_topic(self.order.unit), self._tools.sender
        count = await sender.partitions(topic) if action == "begin" else 1
        value = encode_control(order)
        await sender.send([Outgoing(topic, number, None, value) for number in range(count)])

    async def _listen(self, reader: LogReader) -> None:
        for record in await reader.read_to_end():
            try:
                told = decode_control(record.value)
            except WireRefused:
                continue  # another record's fault
            if isinstance(told, RebuildTold) and told.job == self.order.job:
                self._told[told.system] = told

    async def _wait(self, problem: str) -> None:
        if (self.progress.state, self.progress.problem) != ("waiting", problem):
            await self._report("waiting", problem)
        await asyncio.sleep(_LOOK_SECONDS)


def untold(proved: list[CopyProved]) -> str:
    """Why nothing can be told of some second copy; empty: it can of all."""
    return next(
        (
            one.result.could_not_tell or one.result.absent
            for one in proved
            if one.result.could_not_tell or one.result.absent
        ),
        "",
    )


def faults_of(proved: list[CopyProved]) -> dict[str, int]:
    """Class -> rows that are not what they should be: rule 3."""
    found: dict[str, int] = {}
    for one in proved:
        for word, count in one.result.by_class.items():
            if word not in ITS_OWN and count:
                found[word] = found.get(word, 0) + count
    return found
