"""Reads what units told of saved entries, and counts them again from their inboxes."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import structlog

from deptbus import names
from deptbus.change import Received
from deptbus.connection import Connection
from deptbus.contract.model import Contract
from deptbus.errors import BusUnreachable, WireRefused
from deptbus.operations.live_feed import BusFeed
from deptbus.operations.picture import SavedEntries, SavedRow
from deptbus.operations.recount import Recount, Tally, day_of_ms, recounts
from deptbus.stream.log import beginning_offsets, read_to_end, scan_to_end, topic_partitions
from deptbus.stream.policies import PolicyHistory, read_policies
from deptbus.wire.codecs import Codecs

log = structlog.get_logger(__name__)

READ_SECONDS = 60.0
_PAUSE_SECONDS = 0.05


async def read_saved(connection: Connection) -> SavedEntries:
    """All that units told up to now. Raises BusUnreachable, BusRefused."""
    feed = BusFeed(connection)
    try:
        async with asyncio.timeout(READ_SECONDS):
            await feed.start()
            saved = (await feed.look()).saved
            while not saved.is_whole:  # each look goes on where the last one ended
                await asyncio.sleep(_PAUSE_SECONDS)
                saved = (await feed.look()).saved
    except TimeoutError:
        raise BusUnreachable("not all that units told could be read in time") from None
    finally:
        await feed.stop()
    return saved


async def recount_unit(
    connection: Connection, unit: str, told: tuple[SavedRow, ...]
) -> list[Recount]:
    """Reads the whole inbox of a unit, one partition after the other: what is remembered at a time
    are the records of one. Raises BusUnreachable, BusRefused."""
    codecs = await _codecs(connection, await read_policies(connection))
    topic = names.in_topic(unit)
    starts = await beginning_offsets(connection, topic)
    tally, whole_since = Tally(), ""
    for partition in range((await topic_partitions(connection, [topic]))[topic]):
        tally.begin_partition()
        is_first = True
        async with aclosing(scan_to_end(connection, topic, partitions=[partition])) as batches:
            async for records in batches:
                for record in records:
                    if is_first and starts[partition] > 0:
                        whole_since = max(whole_since, day_of_ms(record.timestamp_ms))
                    is_first = False
                    try:
                        received = codecs.decode_inbox(record.key, record.value)
                    except WireRefused:
                        continue  # the recipient's adapter told of it, and applied nothing
                    if isinstance(received, Received):
                        tally.take(received, record.timestamp_ms)
                await asyncio.sleep(0)
    return recounts(unit, tally.counts, told, whole_since or None)


async def _codecs(connection: Connection, history: PolicyHistory) -> Codecs:
    """That know every schema which was ever in force here."""
    codecs = Codecs()
    contracts: list[Contract] = [p.contract for p in history.policies.values()]
    for contract in contracts:
        codecs.add_contract(contract)
    for record in await read_to_end(connection, names.SCHEMAS):
        try:
            codecs.add_schema(int.from_bytes(record.key or b"", "big"), record.value or b"")
        except WireRefused as error:
            log.error("schema_refused", offset=record.offset, reason=error.reason)
    return codecs
