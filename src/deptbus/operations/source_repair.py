"""Has a source publish again the keys of which the bus has something else than its table.

A plain resend would not do. Of a row that was changed behind the bus's back the source does not
know where it lay before, and of a key that it never saw deleted not even that it was published: so
whoever had got it there would keep it. The order names every place that the bus's records name.
What is published is the row's present state, read under its lock, or that it is gone: nothing that
was seen before is relied on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import aclosing

import structlog

from deptbus import names
from deptbus.change import Change
from deptbus.errors import DeptbusError
from deptbus.operations.audit import RESEND, Operator, acts_of, record
from deptbus.operations.inventory import Holdings, Shelves
from deptbus.stream.log import LogReader, Outgoing, scan_to_end
from deptbus.wire.control import ResendOrder, encode_control

log = structlog.get_logger(__name__)

MOST_KEYS = 20_000  # with more, a resync at the source is quicker: it walks its rows once
ORDER_PARTITION = 0  # of the source's inbox
_ORDER_KEYS = 500  # in one record: what it makes the source remember is one short transaction


async def order_resend(
    shelves: Shelves,
    unit: str,
    dataset: str,
    keys: Collection[bytes],
    *,
    by: Operator,
    reason: str,
    name: str,
) -> int:
    """Returns how many keys were ordered, once all of it is in the source's inbox: it does the rest
    also if it runs later. `name` becomes the job of what is published. Ordered twice it is
    published twice. Raises DeptbusError for too many keys, BusUnreachable, BusRefused."""
    wanted = frozenset(key for key in keys if key)
    if len(wanted) > MOST_KEYS:
        raise DeptbusError(
            f"{len(wanted)} keys of {dataset} differ: more than are repaired one by one",
            mend=f"Run `deptbus department resync` at {unit}",
        )
    if not wanted:
        return 0
    places = await _places(shelves, unit, dataset, wanted)
    for act in acts_of(by, RESEND, reason, unit=unit, dataset=dataset):
        await record(shelves.sender, act)
    orders = list(_orders(name, dataset, wanted, places))
    topic = names.in_topic(unit)
    await shelves.sender.send(
        [Outgoing(topic, ORDER_PARTITION, None, encode_control(one)) for one in orders]
    )
    log.info("resend_ordered", unit=unit, dataset=dataset, keys=len(wanted), request=name)
    return len(wanted)


async def until_published(
    shelves: Shelves,
    dataset: str,
    keys: Collection[bytes],
    *,
    name: str,
    behind: Mapping[int, int],
    seconds: float,
) -> bool:
    """Whether the canonical topic had the answers to the order `name` of all keys in that time,
    `behind` its ends before the order. A row that its source refuses by now has none. Raises
    BusUnreachable, BusRefused."""
    left, until = set(keys), time.monotonic() + seconds
    topic = names.data_topic(dataset)
    async with LogReader(shelves.connection, topic, from_offsets=behind) as reader:
        while left and (rest := until - time.monotonic()) > 0:
            for found in await reader.poll(min(rest, 1.0)):
                if found.key in left:
                    change = await shelves.library.read(found)
                    if isinstance(change, Change) and change.job == name:
                        left.discard(change.key)
    return not left


async def _places(
    shelves: Shelves, unit: str, dataset: str, keys: frozenset[bytes]
) -> Mapping[bytes, str]:
    """Of each key that the bus knows: every place that any of its records names."""
    holdings = Holdings(unit)
    async with aclosing(scan_to_end(shelves.connection, names.data_topic(dataset))) as batches:
        async for records in batches:
            for found in records:
                if found.key in keys:
                    change = await shelves.library.read(found)
                    if isinstance(change, Change):
                        holdings.add(change)
            await asyncio.sleep(0)
    told = holdings.chunks("", "", dataset, 0)
    return {k: p for chunk in told for k, p in zip(chunk.keys, chunk.places, strict=True)}


def _orders(
    name: str, dataset: str, keys: Collection[bytes], places: Mapping[bytes, str]
) -> Iterator[ResendOrder]:
    ordered, now_us = sorted(keys), time.time_ns() // 1000
    for start in range(0, len(ordered), _ORDER_KEYS):
        some = tuple(ordered[start : start + _ORDER_KEYS])
        yield ResendOrder(name, dataset, some, tuple(places.get(k, "") for k in some), now_us)
